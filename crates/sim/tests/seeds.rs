//! Seeds that once found a bug, each with what it was. A seed stands for its history only together with the simulator of
//! its day, so each of these bugs has a test of its own, too; see "Bugs found" in the README of this crate.

use sim::{Detail, SECOND, Scenario, World};

fn passes(seed: u64) {
    let scenario = Scenario::draw(seed, 5 * 60 * SECOND);
    let report = World::new(scenario, Detail::Keep(20)).run();
    assert!(report.violation.is_none(), "{:?}\n{}", report.violation, report.last_events.join("\n"));
    assert!(report.events > 1000, "{} events", report.events);
}

macro_rules! seeds {
    ($($name:ident: $seed:literal,)*) => {
        $(#[test]
        fn $name() {
            passes($seed);
        })*
    };
}

seeds! {
    entries_were_stored_one_place_too_high: 33,
    a_peer_that_lost_what_it_acknowledged_never_caught_up: 97,
    a_write_in_the_log_was_refused_when_its_job_came_back_late: 120,
    a_write_in_the_log_was_refused_when_its_job_came_back_late_2: 164,
    segments_prepared_ahead_stood_in_the_way_after_a_loss: 269,
    segments_prepared_ahead_stood_in_the_way_after_a_loss_2: 317,
    an_open_segment_was_put_behind_the_wrong_snapshot: 1007,
    a_voter_whose_log_had_failed_counted_for_the_quorum_of_a_role_change: 870,
    answers_went_to_where_the_leader_had_been: 100_224,
    answers_went_to_where_the_leader_had_been_2: 101_943,
    a_peer_that_lost_something_between_two_heartbeats_never_caught_up: 201_602,
    a_peer_that_fell_silent_was_asked_for_what_was_compacted: 215_311,
}

#[test]
fn equal_seeds_give_equal_runs() {
    let hash = |seed| World::new(Scenario::draw(seed, 60 * SECOND), Detail::Hash).run().hash;
    for seed in 0..6 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
}
