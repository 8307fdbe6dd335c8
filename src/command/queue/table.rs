//! The table of the queue commands, and the words that it is written in.

use super::{Argument, CATEGORY, Kind, Spec, Verb};
use crate::command::route::Route;

pub const COMMANDS: [Spec; 24] = [
    Spec {
        route: Route::Queue(Verb::Push),
        name: "qpush",
        arity: -3,
        flags: PUSHES,
        categories: WRITES,
        since: FIRST,
        summary: "Pushes a job to a queue and returns its id.",
        complexity: "O(1); O(log(N)) with DELAY, AT or TTL, N being the number of jobs that have one",
        arguments: &[
            QUEUE, PAYLOAD, PRIORITY, START, TTL, RETRIES, BACKOFF, LEASE, UNIQUE, GROUPED, META,
        ],
    },
    Spec {
        route: Route::Queue(Verb::PushMany),
        name: "qmpush",
        arity: -4,
        flags: PUSHES,
        categories: WRITES,
        since: FIRST,
        summary: "Pushes several jobs to a queue, all or none, and returns their ids.",
        complexity: "O(N), N being the number of jobs",
        arguments: &[
            QUEUE,
            integer("numjobs"),
            text("payload").many(),
            PRIORITY,
            START,
            TTL,
            RETRIES,
            BACKOFF,
            LEASE,
            GROUPED,
            META,
        ],
    },
    Spec {
        route: Route::Queue(Verb::Pop),
        name: "qpop",
        arity: -2,
        flags: POPS,
        categories: POPPING,
        since: FIRST,
        summary: "Takes the next jobs of a queue under a lease, and may wait for them.",
        complexity: "O(N log(M)), N being the number of jobs taken and M the number of leased ones",
        arguments: &[QUEUE, COUNT, BLOCK, LEASE, NOACK, BOUND, WITHMETA],
    },
    Spec {
        route: Route::Queue(Verb::PopAny),
        name: "qmpop",
        arity: -3,
        flags: POPS,
        categories: POPPING,
        since: FIRST,
        summary: "Takes the next jobs of the first queue named that has any, and may wait for them.",
        complexity: "O(Q + N log(M)), Q being the number of queues asked, N the number of jobs taken and M the number of leased ones",
        arguments: &[
            integer("numqueues"),
            text("queue").many(),
            COUNT,
            BLOCK,
            LEASE,
            NOACK,
            BOUND,
            WITHMETA,
        ],
    },
    Spec {
        route: Route::Queue(Verb::Ack),
        name: "qack",
        arity: -3,
        flags: WRITES_FAST,
        categories: WRITES,
        since: FIRST,
        summary: "Completes jobs, which removes them, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of receipts and M the number of leased jobs",
        arguments: &[
            QUEUE,
            RECEIPTS,
            Argument {
                kind: Kind::Block(&[
                    Argument {
                        optional: false,
                        ..text("payload").after("RESULT")
                    },
                    integer("ms").after("TTL"),
                ]),
                optional: true,
                ..text("result")
            },
        ],
    },
    Spec {
        route: Route::Queue(Verb::Result),
        name: "qresult",
        arity: -3,
        flags: &["readonly", "noscript", "blocking"],
        categories: &["@read", "@slow", "@blocking", CATEGORY],
        since: FIRST,
        summary: "Returns what QACK said came of a job, and may wait for the job's end.",
        complexity: "O(1)",
        arguments: &[QUEUE, text("id"), BLOCK],
    },
    Spec {
        route: Route::Queue(Verb::Nack),
        name: "qnack",
        arity: -3,
        flags: WRITES_FAST,
        categories: WRITES,
        since: FIRST,
        summary: "Gives jobs back as failed, to be delivered again after their backoff, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of receipts and M the number of leased, delayed or dead jobs",
        arguments: &[
            QUEUE,
            RECEIPTS,
            integer("ms").after("DELAY"),
            text("text").after("ERROR"),
            token("dead", "DEAD"),
        ],
    },
    Spec {
        route: Route::Queue(Verb::Extend),
        name: "qextend",
        arity: -4,
        flags: WRITES_FAST,
        categories: WRITES,
        since: FIRST,
        summary: "Makes leases end so many milliseconds from now, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of receipts and M the number of leased jobs",
        arguments: &[QUEUE, integer("ms"), RECEIPTS],
    },
    Spec {
        route: Route::Queue(Verb::Len),
        name: "qlen",
        arity: 2,
        flags: READS_FAST,
        categories: READS,
        since: FIRST,
        summary: "Returns the number of a queue's ready jobs.",
        complexity: "O(1)",
        arguments: &[QUEUE],
    },
    Spec {
        route: Route::Queue(Verb::Stats),
        name: "qstats",
        arity: 2,
        flags: READS_FAST,
        categories: READS,
        since: FIRST,
        summary: "Returns a queue's depths and counters.",
        complexity: "O(1)",
        arguments: &[QUEUE],
    },
    Spec {
        route: Route::Queue(Verb::Peek),
        name: "qpeek",
        arity: -2,
        flags: READS_SLOW,
        categories: READS,
        since: FIRST,
        summary: "Shows a queue's jobs in one state, next to be served first, and changes nothing.",
        complexity: "O(N+M), N being the number of jobs shown and M the offset",
        arguments: &[QUEUE, STATE, COUNT, integer("m").after("OFFSET")],
    },
    Spec {
        route: Route::Queue(Verb::Job),
        name: "qjob",
        arity: 3,
        flags: READS_FAST,
        categories: READS,
        since: FIRST,
        summary: "Shows one job.",
        complexity: "O(log(N)), N being the number of jobs in its state",
        arguments: &[QUEUE, text("id")],
    },
    Spec {
        route: Route::Queue(Verb::Explain),
        name: "qexplain",
        arity: 3,
        flags: READS_FAST,
        categories: READS,
        since: FIRST,
        summary: "Says why a job does not run now.",
        complexity: "O(N), N being the number of jobs ahead in its priority, 10000 at most",
        arguments: &[QUEUE, text("id")],
    },
    Spec {
        route: Route::ScanQueues,
        name: "qscan",
        arity: -2,
        flags: READS_SLOW,
        categories: &["@read", "@slow", CATEGORY],
        since: FIRST,
        summary: "Goes through the names of all queues.",
        complexity: "O(n) a call; O(N) for all, N being the number of keys in the database",
        arguments: &[text("cursor"), text("glob").after("MATCH"), COUNT],
    },
    Spec {
        route: Route::Queue(Verb::Delete),
        name: "qdel",
        arity: -3,
        flags: WRITES_FAST,
        categories: WRITES,
        since: FIRST,
        summary: "Removes jobs, whatever their state, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of ids and M the number of jobs in their states",
        arguments: &[QUEUE, text("id").many()],
    },
    Spec {
        route: Route::Queue(Verb::Purge),
        name: "qpurge",
        arity: -2,
        flags: &["write"],
        categories: &["@write", "@slow", "@dangerous", CATEGORY],
        since: FIRST,
        summary: "Removes all of a queue's jobs, or those in one state, and returns how many there were.",
        complexity: "O(N), N being the number of jobs removed",
        arguments: &[QUEUE, STATE],
    },
    Spec {
        route: Route::Queue(Verb::Config),
        name: "qconfig",
        arity: -3,
        flags: &["write"],
        categories: SETTINGS,
        since: FIRST,
        summary: "Shows a queue's settings, or changes them for every proxy.",
        complexity: "O(N), N being the number of settings changed",
        arguments: &[Argument {
            kind: Kind::OneOf(&[
                Argument {
                    kind: Kind::Block(&[word("GET"), QUEUE]),
                    ..text("get")
                },
                Argument {
                    kind: Kind::Block(&[
                        word("SET"),
                        QUEUE,
                        Argument {
                            kind: Kind::Block(&[text("field"), text("value")]),
                            multiple: true,
                            ..text("setting")
                        },
                    ]),
                    ..text("set")
                },
            ]),
            ..text("subcommand")
        }],
    },
    Spec {
        route: Route::Queue(Verb::Pause),
        name: "qpause",
        arity: -2,
        flags: &["write", "fast"],
        categories: SETTINGS,
        since: FIRST,
        summary: "Holds back a queue's pops, its pushes, or both.",
        complexity: "O(1)",
        arguments: &[
            QUEUE,
            Argument {
                kind: Kind::OneOf(&[word("PUSH"), word("POP"), word("ALL")]),
                optional: true,
                ..text("what")
            },
        ],
    },
    Spec {
        route: Route::Queue(Verb::Resume),
        name: "qresume",
        arity: 2,
        flags: &["write", "fast"],
        categories: SETTINGS,
        since: FIRST,
        summary: "Ends what QPAUSE began.",
        complexity: "O(1)",
        arguments: &[QUEUE],
    },
    Spec {
        route: Route::Queue(Verb::Redrive),
        name: "qredrive",
        arity: -2,
        flags: &["write"],
        categories: &["@write", "@slow", CATEGORY],
        since: FIRST,
        summary: "Makes dead jobs ready with their attempts at zero, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of jobs made ready and M the number of dead ones",
        arguments: &[
            QUEUE,
            Argument {
                kind: Kind::OneOf(&[
                    Argument {
                        optional: false,
                        ..integer("n").after("COUNT")
                    },
                    text("id").many(),
                ]),
                optional: true,
                ..text("which")
            },
        ],
    },
    Spec {
        route: Route::Queue(Verb::Promote),
        name: "qpromote",
        arity: -3,
        flags: &["write", "fast"],
        categories: WRITES,
        since: FIRST,
        summary: "Makes delayed jobs ready now, and returns how many there were.",
        complexity: "O(N log(M)), N being the number of ids and M the number of delayed jobs",
        arguments: &[QUEUE, text("id").many()],
    },
    Spec {
        route: Route::Queue(Verb::Drop),
        name: "qdrop",
        arity: 2,
        flags: &["write"],
        categories: SETTINGS,
        since: FIRST,
        summary: "Removes a queue with its jobs, counters and settings, and returns whether there was one.",
        complexity: "O(1); Redis frees the memory beside its work",
        arguments: &[QUEUE],
    },
    Spec {
        route: Route::Queue(Verb::Check),
        name: "qcheck",
        arity: -2,
        flags: &["write"],
        categories: SETTINGS,
        since: FIRST,
        summary: "Looks for what no sound queue has, a part of the queue a call, and may mend it.",
        complexity: "O(1) a call, which looks at some 200 places; O(N log(N)) for all, N being the number of jobs",
        arguments: &[QUEUE, text("cursor").after("CURSOR"), token("repair", "REPAIR")],
    },
    Spec {
        route: Route::Queue(Verb::Cron),
        name: "qcron",
        arity: -3,
        flags: PUSHES_SLOWLY,
        categories: &["@write", "@slow", CATEGORY],
        since: FIRST,
        summary: "Adds, removes or lists a queue's repeated jobs, each pushed at every tick of a schedule.",
        complexity: "O(log(N)), N being the number of the queue's repeated jobs; of LIST O(N)",
        arguments: &[Argument {
            kind: Kind::OneOf(&[
                Argument {
                    kind: Kind::Block(&[
                        word("ADD"),
                        QUEUE,
                        text("name"),
                        text("schedule"),
                        PAYLOAD,
                        text("zone").after("TZ"),
                        PRIORITY,
                        START,
                        TTL,
                        RETRIES,
                        BACKOFF,
                        LEASE,
                        UNIQUE,
                        GROUPED,
                        META,
                    ]),
                    ..text("add")
                },
                Argument {
                    kind: Kind::Block(&[word("DEL"), QUEUE, text("name")]),
                    ..text("del")
                },
                Argument {
                    kind: Kind::Block(&[word("LIST"), QUEUE]),
                    ..text("list")
                },
            ]),
            ..text("subcommand")
        }],
    },
];

const FIRST: &str = "0.1.0";
const SETTINGS: &[&str] = &["@write", "@slow", "@dangerous", CATEGORY];
const PUSHES: &[&str] = &["write", "denyoom", "noscript", "fast"];
const PUSHES_SLOWLY: &[&str] = &["write", "denyoom", "noscript"];
const POPS: &[&str] = &["write", "noscript", "blocking"];
const WRITES_FAST: &[&str] = &["write", "noscript", "fast"];
const READS_FAST: &[&str] = &["readonly", "noscript", "fast"];
const READS_SLOW: &[&str] = &["readonly", "noscript"];
const WRITES: &[&str] = &["@write", "@fast", CATEGORY];
const POPPING: &[&str] = &["@write", "@slow", "@blocking", CATEGORY];
const READS: &[&str] = &["@read", "@fast", CATEGORY];

const QUEUE: Argument = text("queue");
const PAYLOAD: Argument = text("payload");
const RECEIPTS: Argument = text("receipt").many();
const PRIORITY: Argument = Argument {
    kind: Kind::OneOf(&[word("urgent"), word("high"), word("normal"), word("low")]),
    ..text("priority").after("PRIORITY")
};
const STATE: Argument = Argument {
    kind: Kind::OneOf(&[word("ready"), word("delayed"), word("leased"), word("dead")]),
    ..text("state").after("STATE")
};
const START: Argument = Argument {
    kind: Kind::OneOf(&[
        Argument {
            optional: false,
            ..integer("ms").after("DELAY")
        },
        Argument {
            optional: false,
            kind: Kind::UnixTime,
            ..integer("unix-ms").after("AT")
        },
    ]),
    optional: true,
    ..text("start")
};
const TTL: Argument = integer("ms").after("TTL");
const RETRIES: Argument = integer("n").after("RETRIES");
const BACKOFF: Argument = Argument {
    kind: Kind::Block(&[
        Argument {
            optional: false,
            ..integer("base-ms").after("BACKOFF")
        },
        integer("max-ms").after("MAXBACKOFF"),
    ]),
    optional: true,
    ..text("backoff")
};
const LEASE: Argument = integer("ms").after("LEASE");
const COUNT: Argument = integer("n").after("COUNT");
const BLOCK: Argument = integer("ms").after("BLOCK");
const NOACK: Argument = token("noack", "NOACK");
const WITHMETA: Argument = token("withmeta", "WITHMETA");
const BOUND: Argument = token("bound", "BOUND");
const GROUPED: Argument = text("name").after("GROUP");
const UNIQUE: Argument = Argument {
    kind: Kind::Block(&[
        Argument {
            optional: false,
            ..text("key").after("UNIQUE")
        },
        integer("ms").after("FOR"),
    ]),
    optional: true,
    ..text("unique")
};
const META: Argument = Argument {
    kind: Kind::Block(&[
        Argument {
            optional: false,
            ..text("field").after("META")
        },
        text("value"),
    ]),
    optional: true,
    multiple: true,
    ..text("meta")
};

const fn text(name: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Text,
        token: "",
        optional: false,
        multiple: false,
    }
}

const fn integer(name: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Integer,
        token: "",
        optional: false,
        multiple: false,
    }
}

/// An option that is only its word.
const fn token(name: &'static str, token: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Token,
        token,
        optional: true,
        multiple: false,
    }
}

/// One of several words to choose from.
const fn word(word: &'static str) -> Argument {
    Argument {
        name: word,
        kind: Kind::Token,
        token: word,
        optional: false,
        multiple: false,
    }
}

impl Argument {
    /// An option, announced by its word.
    const fn after(mut self, token: &'static str) -> Self {
        self.token = token;
        self.optional = true;
        self
    }

    const fn many(mut self) -> Self {
        self.multiple = true;
        self
    }
}
