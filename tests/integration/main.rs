//! Runs the integration tests.

mod store_conformance;

fn main() {
    let args = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&args, store_conformance::tests()).exit();
}
