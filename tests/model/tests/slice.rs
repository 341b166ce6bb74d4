//! Decides whether the claim protocol keeps its promises, exhaustively for the smaller worlds; `make model` explores all.
#![allow(missing_docs)]

use model::check::check;
use model::config::{Clause, Config};
use model::suite;

#[test]
fn the_protocol_keeps_its_promises() {
    for config in suite::protocol(true) {
        let found = check(config, 2);
        assert!(found.is_sound(), "{}: {found:#?}", config.name);
    }
}

#[test]
fn each_window_is_one() {
    for (window, config) in suite::windows() {
        let found = check(Config { windows: config.windows & !(1 << window), ..config }, 1);
        assert_eq!(found.broken, Some("no second effect"), "{}", config.name);
    }
}

#[test]
fn no_clause_can_be_taken_out() {
    for control in suite::controls() {
        // Those take longer, since nothing, or little, breaks without them.
        let long = matches!(control.config.without, Some(Clause::ReleaseOnce)) || control.breaks.is_none();
        if !long {
            assert_eq!(check(control.config, 1).broken, control.breaks, "{}", control.name());
        }
    }
}
