//! A panic in any thread ends the whole process with 70: this test starts itself anew and panics there.

use std::process::Command;

use sidecar::args::exit;
use sidecar::{guard, logging};

const CHILD: &str = "PANIC_EXIT_CHILD";

#[test]
fn a_panic_in_any_thread_ends_the_process_with_70() {
    if std::env::var_os(CHILD).is_some() {
        logging::exit_on_panic(exit::INTERNAL.into());
        let _ = std::thread::spawn(|| panic!("on purpose")).join();
        // Reached only when the panic stayed in its thread.
        std::process::exit(0);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_panic_in_any_thread_ends_the_process_with_70", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(70));
    assert!(String::from_utf8_lossy(&child.stderr).contains("on purpose"));
}

/// The Kafka client panics on a header name that is not UTF-8; no record may end the sidecar.
#[test]
fn a_panic_that_is_waited_for_ends_nothing() {
    if std::env::var_os(CHILD).is_some() {
        logging::exit_on_panic(exit::INTERNAL.into());
        let survived = guard::survive(|| panic!("on purpose")).is_none();
        std::process::exit(if survived { 0 } else { 1 });
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_panic_that_is_waited_for_ends_nothing", "--nocapture"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert_eq!(child.code(), Some(0));
}
