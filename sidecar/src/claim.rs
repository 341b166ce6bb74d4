//! Decides who may deliver an event: the value stored under its key, and who owns it, in; a decision out. Pure.
