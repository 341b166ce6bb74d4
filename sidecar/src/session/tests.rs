//! Tests of the life of sessions, with the time and the store's answers given by hand.

use super::*;
use uuid::Uuid;

const TTL: Duration = Duration::from_secs(9);
const APPLIED: Result<Reply, StoreError> = Ok(Reply::Applied);
const REFUSED: Result<Reply, StoreError> = Ok(Reply::Refused);

fn id(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n))
}

fn at(millis: u64) -> Time {
    Time::at(Duration::from_millis(1_000_000 + millis))
}

fn unanswered() -> Result<Reply, StoreError> {
    Err(StoreError::Unanswered("time-out".into()))
}

const fn is_mark(demand: &Demand) -> bool {
    matches!(demand, Demand::Mark(_) | Demand::KeepMark(_))
}

/// Sessions with ids 1, 2, 3 …
struct Rig {
    sessions: Sessions,
    given: u128,
}

impl Rig {
    fn new(inherited: &[SessionId]) -> Self {
        Self { sessions: Sessions::new(TTL, inherited.to_vec(), at(0)), given: 0 }
    }

    /// What is asked, but for the mark.
    fn poll(&mut self, millis: u64) -> Vec<Demand> {
        let mut demands = self.poll_all(millis);
        demands.retain(|demand| !is_mark(demand));
        demands
    }

    fn poll_all(&mut self, millis: u64) -> Vec<Demand> {
        let mut demands = Vec::new();
        let given = &mut self.given;
        let fresh = || {
            *given += 1;
            id(*given)
        };
        self.sessions.poll(at(millis), fresh, &mut demands);
        demands
    }

    fn answer(&mut self, demand: Demand, reply: Result<Reply, StoreError>, millis: u64) -> News {
        self.sessions.answered(&demand, &reply, at(millis))
    }

    /// Session 1, open since 0.
    fn opened() -> Self {
        let mut rig = Self::new(&[]);
        rig.poll(0);
        assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 1), News::Opened);
        rig
    }

    fn current(&self, millis: u64) -> Option<SessionId> {
        self.sessions.current(at(millis))
    }
}

#[test]
fn a_session_is_current_once_its_opening_is_confirmed() {
    let mut rig = Rig::new(&[]);
    assert_eq!(rig.poll(0), [Demand::Save(vec![id(1)]), Demand::Prove(id(1)), Demand::Open(id(1))]);
    assert_eq!(rig.current(0), None);
    assert_eq!(rig.poll(10), [], "one opening at a time");
    assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 20), News::Opened);
    assert_eq!(rig.current(20), Some(id(1)));
    assert!(rig.sessions.is_current(id(1)) && rig.sessions.is_mine(id(1)));
}

#[test]
fn it_is_valid_for_one_ttl_from_when_it_was_asked_for() {
    let mut rig = Rig::new(&[]);
    rig.poll(0);
    rig.answer(Demand::Open(id(1)), APPLIED, 2_000);
    assert_eq!(rig.current(8_999), Some(id(1)));
    assert_eq!(rig.current(9_000), None, "from sending, not from the answer");
    assert_eq!(rig.poll(3_000), [Demand::Renew(id(1))], "every third of the ttl");
    assert_eq!(rig.answer(Demand::Renew(id(1)), APPLIED, 8_000), News::Nothing);
    assert_eq!(rig.current(11_999), Some(id(1)));
    assert_eq!(rig.current(12_000), None);
}

#[test]
fn an_opening_confirmed_after_a_ttl_is_not_used() {
    let mut rig = Rig::new(&[]);
    rig.poll(0);
    assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 9_000), News::Nothing);
    assert_eq!(rig.current(9_000), None);
}

#[test]
fn a_session_that_ran_out_is_replaced_by_another() {
    let mut rig = Rig::opened();
    let demands = rig.poll(9_000);
    assert!(demands.contains(&Demand::Open(id(2))) && demands.contains(&Demand::End(id(1))), "{demands:?}");
    // A renewal that was on its way does not bring it back.
    assert_eq!(rig.answer(Demand::Renew(id(1)), APPLIED, 9_001), News::Nothing);
    assert_eq!(rig.current(9_001), None);
    rig.answer(Demand::Open(id(2)), APPLIED, 9_002);
    assert_eq!(rig.current(9_002), Some(id(2)));
    assert!(!rig.sessions.is_current(id(1)) && rig.sessions.is_mine(id(1)));
}

#[test]
fn a_failed_renewal_is_tried_again_soon() {
    let mut rig = Rig::opened();
    rig.poll(3_000);
    rig.answer(Demand::Renew(id(1)), unanswered(), 3_250);
    assert_eq!(rig.poll(3_300), []);
    assert_eq!(rig.sessions.next_due(), Some(at(3_550)));
    assert_eq!(rig.poll(3_550), [Demand::Renew(id(1))]);
}

#[test]
fn an_opening_without_an_answer_is_never_used() {
    for lost in [unanswered(), Ok(Reply::Present("1".into())), Err(StoreError::Refused("OOM".into()))] {
        let mut rig = Rig::new(&[]);
        rig.poll(0);
        assert_eq!(rig.answer(Demand::Open(id(1)), lost, 250), News::Nothing);
        assert_eq!(rig.poll(251), [], "not at once");
        assert!(rig.poll(600).contains(&Demand::Open(id(2))), "under another id");
        assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 601), News::Nothing);
        assert_eq!(rig.current(601), None);
    }
}

#[test]
fn a_session_that_could_not_do_everything_is_not_opened() {
    for refused in [unanswered(), Err(StoreError::Refused("NOPERM".into())), Err(StoreError::NotSent("refused".into()))]
    {
        let mut rig = Rig::new(&[]);
        rig.poll(0);
        assert_eq!(rig.answer(Demand::Prove(id(1)), refused, 10), News::Nothing);
        assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 10), News::Nothing);
        assert_eq!(rig.current(10), None);
        assert_eq!(rig.poll(11), [], "not at once");
        assert!(rig.poll(400).contains(&Demand::Open(id(2))));
    }
    for proved in [APPLIED, REFUSED, Err(StoreError::WrongType("k".into()))] {
        let mut rig = Rig::new(&[]);
        rig.poll(0);
        rig.answer(Demand::Prove(id(1)), proved, 10);
        assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 10), News::Opened);
    }
}

#[test]
fn an_opening_that_was_on_its_way_when_everything_was_given_up_is_not_used() {
    let mut rig = Rig::new(&[]);
    rig.poll(0);
    rig.sessions.rotate();
    assert_eq!(rig.answer(Demand::Open(id(1)), APPLIED, 1), News::Nothing);
    assert_eq!(rig.current(1), None);
    assert!(rig.poll(2).contains(&Demand::Open(id(2))));
}

#[test]
fn a_long_outage_leaves_no_heap_of_openings_behind() {
    let mut rig = Rig::opened();
    rig.sessions.rotate();
    let mut most = 0;
    for second in 1..300 {
        rig.sessions.open_not_before(at(second * 1_000));
        let demands = rig.poll(second * 1_000);
        most = most.max(demands.len());
        for demand in demands {
            rig.answer(demand, unanswered(), second * 1_000 + 250);
        }
    }
    assert!(most <= 5, "{most} requests at once to a store that is away");
    assert!(rig.sessions.existing().len() <= 4, "{}", rig.sessions.existing().len());
}

#[test]
fn a_replaced_session_lives_while_it_is_held_and_is_ended_then() {
    let mut rig = Rig::opened();
    rig.sessions.hold(id(1));
    rig.sessions.hold(id(1));
    rig.sessions.rotate();
    assert_eq!(rig.current(10), None);
    let demands = rig.poll(10);
    assert_eq!(
        demands,
        [Demand::Renew(id(1)), Demand::Save(vec![id(1), id(2)]), Demand::Prove(id(2)), Demand::Open(id(2))]
    );
    assert_eq!(rig.answer(Demand::Renew(id(1)), APPLIED, 11), News::Nothing);
    rig.answer(Demand::Open(id(2)), APPLIED, 11);
    assert_eq!(rig.poll(3_010), [Demand::Renew(id(2)), Demand::Renew(id(1))], "both are kept alive");
    rig.sessions.unhold(id(1));
    assert_eq!(rig.poll(3_020), []);
    rig.sessions.unhold(id(1));
    assert_eq!(rig.poll(3_030), [Demand::End(id(1))]);
    assert_eq!(rig.poll(3_040), [], "once");
    rig.answer(Demand::End(id(1)), unanswered(), 3_290);
    assert_eq!(rig.poll(3_300), []);
    assert_eq!(rig.poll(4_190), [Demand::End(id(1))], "until it is answered");
    rig.answer(Demand::End(id(1)), APPLIED, 4_191);
    assert_eq!(rig.sessions.existing(), [id(2)]);
}

#[test]
fn a_key_gone_before_its_time_means_that_the_store_lost_data() {
    let mut rig = Rig::opened();
    rig.poll(3_000);
    assert_eq!(rig.answer(Demand::Renew(id(1)), REFUSED, 3_001), News::DataLost);
    assert_eq!(rig.current(3_002), None, "its claims are void");
    assert!(rig.poll(3_003).contains(&Demand::Open(id(2))));
}

#[test]
fn also_when_the_session_was_replaced_and_is_still_held() {
    let mut rig = Rig::opened();
    rig.sessions.hold(id(1));
    rig.sessions.rotate();
    rig.poll(3_000);
    assert_eq!(rig.answer(Demand::Renew(id(1)), REFUSED, 3_001), News::DataLost);
}

#[test]
fn also_when_the_session_was_only_to_be_ended() {
    let mut rig = Rig::opened();
    rig.sessions.rotate();
    let demands = rig.poll(10);
    let place = |wanted: Demand| demands.iter().position(|demand| *demand == wanted).unwrap();
    assert!(place(Demand::End(id(1))) < place(Demand::Open(id(2))), "known before the next claim: {demands:?}");
    assert_eq!(rig.answer(Demand::End(id(1)), REFUSED, 11), News::DataLost);
    assert_eq!(rig.sessions.existing(), [id(2)]);
}

#[test]
fn also_when_the_store_was_away_meanwhile() {
    let mut rig = Rig::opened();
    rig.sessions.rotate();
    let demands = rig.poll(10);
    for demand in demands {
        rig.answer(demand, Err(StoreError::NotSent("refused".into())), 11);
    }
    let demands = rig.poll(400);
    assert!(demands.contains(&Demand::End(id(1))) && demands.contains(&Demand::Open(id(3))), "{demands:?}");
    assert_eq!(rig.answer(Demand::End(id(1)), REFUSED, 401), News::DataLost);
}

#[test]
fn a_key_that_this_sidecar_may_have_deleted_itself_means_nothing() {
    let mut rig = Rig::opened();
    rig.sessions.rotate();
    rig.poll(10);
    rig.answer(Demand::End(id(1)), unanswered(), 260);
    assert!(rig.poll(1_200).contains(&Demand::End(id(1))));
    assert_eq!(rig.answer(Demand::End(id(1)), REFUSED, 1_201), News::Nothing);
    // A predecessor may have ended its sessions itself.
    let mut rig = Rig::new(&[id(91)]);
    rig.poll(0);
    assert_eq!(rig.answer(Demand::End(id(91)), REFUSED, 1), News::Nothing);
    // And a key whose time is over is gone by itself.
    let mut rig = Rig::opened();
    rig.poll(9_000);
    assert_eq!(rig.answer(Demand::End(id(1)), REFUSED, 9_001), News::Nothing);
}

#[test]
fn a_key_gone_after_its_time_means_nothing() {
    let mut rig = Rig::opened();
    rig.poll(8_900);
    // The request may have been a while on its way: when the answer comes, the key's time is over.
    assert_eq!(rig.answer(Demand::Renew(id(1)), REFUSED, 9_100), News::Nothing);
    assert_eq!(rig.current(9_101), None);
    let mut rig = Rig::opened();
    assert_eq!(rig.answer(Demand::Renew(id(1)), REFUSED, 20_000), News::Nothing);
}

#[test]
fn what_may_exist_is_saved_before_the_next_key_does() {
    let mut rig = Rig::new(&[id(91), id(92)]);
    let demands = rig.poll(0);
    let (save, open) = (
        demands.iter().position(|demand| matches!(demand, Demand::Save(_))).unwrap(),
        demands.iter().position(|demand| matches!(demand, Demand::Open(_))).unwrap(),
    );
    assert!(save < open);
    let Demand::Save(saved) = &demands[save] else { panic!() };
    for expected in [id(91), id(92), id(1)] {
        assert!(saved.contains(&expected), "{expected} is missing in {saved:?}");
    }
}

#[test]
fn a_predecessors_sessions_are_ended_and_known_as_mine() {
    let mut rig = Rig::new(&[id(91)]);
    assert!(rig.sessions.is_mine(id(91)));
    assert!(!rig.sessions.is_mine(id(93)));
    assert!(rig.poll(0).contains(&Demand::End(id(91))));
    rig.answer(Demand::End(id(91)), APPLIED, 1);
    assert!(!rig.sessions.existing().contains(&id(91)));
    assert!(rig.sessions.is_mine(id(91)), "its claims may still stand");
}

#[test]
fn no_id_comes_twice() {
    let mut rig = Rig::new(&[]);
    let mut seen = std::collections::HashSet::new();
    for second in 0..50 {
        for demand in rig.poll(second * 1_000) {
            if let Demand::Open(opened) = &demand {
                assert!(seen.insert(*opened), "{opened} again");
                let reply = if second % 3 == 0 { unanswered() } else { APPLIED };
                rig.answer(demand, reply, second * 1_000 + 1);
            }
        }
        rig.sessions.rotate();
    }
    assert!(seen.len() > 20);
}

#[test]
fn closing_ends_everything_and_opens_nothing() {
    let mut rig = Rig::opened();
    rig.sessions.close();
    assert!(!rig.sessions.is_closed());
    assert_eq!(rig.poll(10), [Demand::End(id(1))]);
    assert!(!rig.sessions.is_closed());
    rig.answer(Demand::End(id(1)), APPLIED, 11);
    assert!(rig.sessions.is_closed());
    assert_eq!(rig.poll(60_000), []);
    assert_eq!(rig.sessions.next_due(), None);
}

/// Session 1, open since 0, and the mark that was found or made.
fn marked(reply: Result<Reply, StoreError>) -> Rig {
    let mut rig = Rig::new(&[]);
    let demands = rig.poll_all(0);
    let place = |wanted: &Demand| demands.iter().position(|demand| demand == wanted);
    assert!(place(&Demand::Mark(id(1))) < place(&Demand::Open(id(1))), "{demands:?}");
    assert_eq!(rig.answer(Demand::Mark(id(1)), reply, 1), News::Nothing);
    rig.answer(Demand::Open(id(1)), APPLIED, 1);
    rig
}

#[test]
fn a_mark_that_is_gone_or_another_means_that_the_store_was_empty() {
    for found in [APPLIED, Ok(Reply::Present(id(7).to_string().into()))] {
        let mut rig = marked(found.clone());
        let value = if found == APPLIED { id(1) } else { id(7) };
        if found != APPLIED {
            assert_eq!(rig.poll_all(2), [Demand::KeepMark(value)], "its life starts anew");
            assert_eq!(rig.answer(Demand::KeepMark(value), APPLIED, 3), News::Nothing);
        }
        assert_eq!(rig.poll_all(2_000), []);
        // An outage longer than the TTL: no session is left that could be missed.
        let demands = rig.poll_all(60_000);
        let place = |wanted: &Demand| demands.iter().position(|demand| demand == wanted);
        assert!(place(&Demand::KeepMark(value)) < place(&Demand::Open(id(2))), "{demands:?}");
        assert_eq!(rig.answer(Demand::KeepMark(value), REFUSED, 60_001), News::DataLost);
        rig.answer(Demand::Open(id(2)), APPLIED, 60_001);
        let again = rig.poll_all(61_000);
        assert!(again.iter().any(|demand| matches!(demand, Demand::Mark(new) if *new != value)), "{again:?}");
    }
}

#[test]
fn a_mark_that_is_there_is_kept_and_one_that_ran_out_is_no_loss() {
    let mut rig = marked(APPLIED);
    assert!(rig.poll_all(60_000).contains(&Demand::KeepMark(id(1))));
    assert_eq!(rig.answer(Demand::KeepMark(id(1)), APPLIED, 60_001), News::Nothing);
    rig.answer(Demand::Open(id(2)), APPLIED, 60_001);
    let month = u64::try_from(MARK_TTL.as_millis()).unwrap();
    assert!(rig.poll_all(60_000 + month).contains(&Demand::KeepMark(id(1))));
    assert_eq!(rig.answer(Demand::KeepMark(id(1)), REFUSED, 60_001 + month), News::Nothing);
}

#[test]
fn a_mark_is_asked_for_again_after_an_error_and_once_an_hour() {
    let mut rig = marked(unanswered());
    assert_eq!(rig.poll_all(1), []);
    let ask = rig.poll_all(400);
    assert_eq!(ask, [Demand::Mark(id(1))]);
    // The one whose answer did not come was applied.
    rig.answer(Demand::Mark(id(1)), Ok(Reply::Present(id(1).to_string().into())), 401);
    assert_eq!(rig.poll_all(402), [Demand::KeepMark(id(1))]);
    rig.answer(Demand::KeepMark(id(1)), APPLIED, 403);
    for second in (3..3_600).step_by(3) {
        for demand in rig.poll_all(second * 1_000) {
            assert!(!is_mark(&demand), "{demand:?} after {second} s");
            rig.answer(demand, APPLIED, second * 1_000);
        }
    }
    assert!(rig.poll_all(3_601_000).contains(&Demand::KeepMark(id(1))));
}

#[test]
fn a_mark_of_another_s_making_is_left_alone() {
    let mut rig = marked(Ok(Reply::Present("not ours".into())));
    assert_eq!(rig.poll_all(2), []);
}
