// A worker in Go with redigo: in a directory of its own
//
//	go mod init worker && go get github.com/gomodule/redigo && go build && PORT=6380 ./worker emails
//
// It waits for a job, does it, acknowledges it with its result or gives it back as failed, and goes on. SIGTERM ends it
// after the job that it has.
package main

import (
	"bytes"
	"errors"
	"log"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// What the jobs are: a result, or an error.
func work(payload []byte) ([]byte, error) {
	if string(payload) == "bad" {
		return nil, errors.New("cannot do that")
	}
	return bytes.ToUpper(payload), nil
}

// Ends with the connection's error, or with none when it is told to stop.
func run(client redis.Conn, queue string, isStopping func() bool) error {
	for !isStopping() {
		job, err := redis.Values(client.Do("QPOP", queue, "BLOCK", 1000))
		if err == redis.ErrNil {
			continue // nobody pushed in that time
		}
		if err != nil {
			return err
		}
		var receipt string
		var payload []byte
		if _, err := redis.Scan(job[1:], &receipt, &payload); err != nil {
			return err
		}
		if result, failure := work(payload); failure != nil {
			_, err = client.Do("QNACK", queue, receipt, "ERROR", failure.Error())
		} else {
			// 0: the lease had ended, and another worker has the job by now.
			_, err = client.Do("QACK", queue, receipt, "RESULT", result)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "6380"
	}
	var stopping atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		stopping.Store(true)
	}()
	for !stopping.Load() {
		client, err := redis.Dial("tcp", "localhost:"+port)
		if err == nil {
			err = run(client, os.Args[1], stopping.Load)
			client.Close()
		}
		if err != nil {
			log.Print(err)
			time.Sleep(time.Second)
		}
	}
}
