# A worker in Ruby with the gem redis: PORT=6380 ruby docs/recipes/worker.rb emails
# It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on. SIGTERM ends it
# after the job that it has.
require "redis"

# What the jobs are. What it returns is the result, what it raises the error.
def work(payload)
  raise "cannot do that" if payload == "bad"
  payload.upcase
end

queue = ARGV.fetch(0)
client = Redis.new(port: Integer(ENV.fetch("PORT", "6380")), timeout: 5) # longer than a BLOCK
stopping = false
trap("TERM") { stopping = true }

until stopping
  begin
    job = client.call("QPOP", queue, "BLOCK", "1000")
  rescue Redis::BaseConnectionError => error
    warn error.message
    sleep 1
    next
  end
  next if job.nil?
  _, receipt, payload, _attempt = job
  begin
    result = work(payload)
  rescue => error
    client.call("QNACK", queue, receipt, "ERROR", error.message)
  else
    # 0: the lease had ended, and another worker has the job by now.
    client.call("QACK", queue, receipt, "RESULT", result)
  end
end
