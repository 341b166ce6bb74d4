//! Decides which integration tests there are and how they run: real Kafka, real Redis, the sidecar as a process. A test that cannot
//! run here fails and says what is missing. I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this crate is tests: a panic here is a failed test")]
#![allow(clippy::print_stderr, reason = "tests talk to the person who runs them")]

use std::process::ExitCode;

use libtest_mimic::Arguments;

mod app_lifecycle;
mod beside_decorator;
mod drain;
mod huleedu;
mod once;
mod ordering;
mod outcomes;
mod rebalance;
mod records;
mod recreated;
mod redis_away;
mod redis_links;
mod restarts;
mod smoke;
mod status;
mod store_conformance;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Tests wait more than they compute: more at once than a small machine has processors, and not so many that they starve.
    args.test_threads.get_or_insert(4);
    let tests = [
        smoke::tests(),
        store_conformance::tests(),
        // The longest first.
        huleedu::tests(),
        beside_decorator::tests(),
        once::tests(),
        outcomes::tests(),
        ordering::tests(),
        records::tests(),
        recreated::tests(),
        restarts::tests(),
        redis_away::tests(),
        redis_links::tests(),
        app_lifecycle::tests(),
        drain::tests(),
        rebalance::tests(),
        status::tests(),
    ];
    let tests = tests.into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&args, tests);
    harness::env::stop_shared();
    conclusion.exit_code()
}
