//! Decides which tests run against a Kubernetes cluster, and how: the operator is installed once, tests share it, and those that
//! replace it, count its requests, or need the whole machine, run alone. A test that cannot run here fails and says what is missing. I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this crate is tests: a panic here is a failed test")]
#![allow(clippy::print_stderr, reason = "tests talk to the person who runs them")]

use std::process::ExitCode;

use harness::cluster::operator::{self, Install};
use libtest_mimic::{Arguments, Trial};

mod bad_references;
mod chart;
mod chart_manifests;
mod delete;
mod evictions;
mod hpa;
mod huleedu;
mod kills;
mod lifecycle;
mod operator_life;
mod pause;
mod quickstart;
mod quiet;
mod rbac;
mod redis_away;
mod rules;
mod scale_and_change;
mod thousand;

/// Tests in namespaces of their own at once: they wait more than they compute.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    if !args.list
        && let Err(e) = harness::block_on(set_up()).and_then(|result| result)
    {
        eprintln!("the cluster can't be used: {e:#}");
        return ExitCode::FAILURE;
    }
    args.test_threads.get_or_insert(AT_ONCE);
    // The longest first.
    let together = libtest_mimic::run(
        &args,
        flat([
            chart_manifests::tests(),
            quiet::tests(),
            quickstart::tests(),
            pause::tests(),
            scale_and_change::tests(),
            kills::tests(),
            evictions::tests(),
            lifecycle::tests(),
            redis_away::tests(),
            bad_references::tests(),
            delete::tests(),
            hpa::tests(),
            rbac::tests(),
            rules::tests(),
        ]),
    );
    args.test_threads = Some(1);
    let alone =
        libtest_mimic::run(&args, flat([huleedu::tests(), operator_life::tests(), chart::tests(), thousand::tests()]));
    let last = libtest_mimic::run(&args, rbac::last(&args));
    harness::env::stop_shared();
    if [together, alone, last].iter().any(libtest_mimic::Conclusion::has_failed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

async fn set_up() -> anyhow::Result<()> {
    let client = harness::cluster::client().await?;
    operator::make_namespace(&client).await?;
    operator::install(&client, &Install::default()).await
}

fn flat(tests: impl IntoIterator<Item = Vec<Trial>>) -> Vec<Trial> {
    tests.into_iter().flatten().collect()
}
