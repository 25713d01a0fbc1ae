//! The vectors were taken from C dqlite 1.18.6, run by hand.

use super::*;

/// `1V+1/2`: id, role (V voter, B stand-by, S spare), online or not, domain, weight. `!` behind it: left alone.
fn member(text: &str) -> Member {
    let (text, left_alone) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
    let role_at = text.find(['V', 'B', 'S']).unwrap();
    let (domain, weight) = text[role_at + 2..].split_once('/').unwrap();
    Member {
        id: NodeId(text[..role_at].parse().unwrap()),
        role: match &text[role_at..=role_at] {
            "V" => Role::Voter,
            "B" => Role::StandBy,
            _ => Role::Spare,
        },
        online: &text[role_at + 1..role_at + 2] == "+",
        failure_domain: domain.parse().unwrap(),
        weight: weight.parse().unwrap(),
        left_alone,
    }
}

fn members(text: &str) -> Vec<Member> {
    text.split_whitespace().map(member).collect()
}

fn changes(voters: i32, stand_bys: i32, own: u64, text: &str) -> String {
    let changes = plan(Targets { voters, stand_bys }, NodeId(own), &members(text));
    let name = |role| match role {
        Role::Voter => "V",
        Role::StandBy => "B",
        Role::Spare => "S",
    };
    let texts: Vec<String> = changes.iter().map(|(id, role)| format!("{id}{}", name(*role))).collect();
    texts.join(" ")
}

#[test]
fn healthy_clusters_get_what_c_would_give_them() {
    for (voters, stand_bys, own, text, expected) in [
        (3, 0, 1, "1V+1/1 2V+1/1 3B+1/1", "3V"),
        (1, 0, 1, "1V+1/1 2V+1/1", "2S"),
        (3, 1, 1, "1V+1/1 2V+1/1 3V+1/1 4S+1/1", "4B"),
        (1, 0, 1, "1V+1/1 2B+1/1", "2S"),
        (3, 1, 1, "1V+1/1 2V+1/1 3B-1/1", "3S"),
        (3, 0, 1, "1V+1/1 2V+1/1 3V-1/1 4S+1/1", "3S 4V"),
        (1, 1, 3, "1S+1/1 2B-1/1 3V+1/1", "2S 1B"),
        (3, 1, 4, "1S+1/1 2B+1/1 3V+1/1 4V+1/1", "2V 1B"),
        (3, 1, 1, "1V+1/1 2V+1/1 3B+1/1 4B+2/1", "4V"),
        (3, 1, 1, "1V+1/1 2V+1/1 3B+1/1 4B-2/1", "4S 3V"),
        (3, 1, 1, "1V+1/1 2V+1/1 3B+1/2 4B+1/1", "4V"),
        (3, 1, 1, "1V+1/1 2V+1/1 3B+2/2 4B+1/1", "3V"),
        (1, 1, 1, "1V+1/1 2S+2/1 3S+1/1", "2B"),
        (1, 1, 1, "1V+1/1 2S-2/1 3S+1/1", "3B"),
        (1, 2, 1, "1V+1/1 2B+1/1 3S+1/1 4S+2/2", "4B"),
        (3, 3, 1, "1V+0/0 2S+0/0 3S+0/0 4S+0/0 5S+0/0 6S+0/0 7S+0/0", "2V 3V 4B 5B 6B"),
        (3, 0, 1, "1V+0/0 2S+0/0 3B+0/0 4S+0/0", "3V 2V"),
        (3, 0, 1, "1V+1/0 2S+1/0 3S+2/9 4S+3/9 5B+1/0", "3V 4V 5S"),
        (1, 0, 1, "1V+0/0 2V+0/5 3V+0/9 4V+0/1", "3S 2S 4S"),
        (3, 0, 1, "1V+1/0 2V+1/0 3V+2/7 4V+3/9", "2S"),
        (1, 1, 1, "1V+0/0 2V+0/0 3V+0/0", "2B 3S"),
        (0, 0, 1, "1V+0/0 2V+0/0", "2S"),
        (-3, -1, 1, "1V+0/0 2V+0/0 3B+0/0", "2S 3S"),
        (3, 1, 3, "1V-1/0 2V-1/0 3V+1/0 4S+1/0 5B+1/0", "1S 2S 5V 4V"),
    ] {
        assert_eq!(
            changes(voters, stand_bys, own, text),
            expected,
            "T({voters},{stand_bys}) me {own}: {text}"
        );
    }
}

/// C compares weights by a difference cut to 32 bits.
#[test]
fn weights_are_compared_as_what_they_are() {
    assert_eq!(changes(2, 0, 1, "1V+0/0 2S+0/2147483648 3S+0/0"), "3V");
    assert_eq!(changes(2, 0, 1, "1V+0/5 2S+0/18446744073709551615 3S+0/3"), "3V");
}

/// C tallies five domains at most.
#[test]
fn every_failure_domain_counts() {
    let text = "1V+1/0 2V+2/0 3V+3/0 4V+4/0 5V+5/0 6V+6/0 7S+6/0 8S+7/9";
    assert_eq!(changes(7, 0, 1, text), "8V");
}

/// C writes a configuration without a voter if it cannot reach itself.
#[test]
fn a_server_keeps_its_own_role() {
    assert_eq!(changes(3, 0, 1, "1V-0/0"), "");
    assert_eq!(changes(0, 0, 1, "1V-0/0"), "");
    assert_eq!(changes(1, 0, 2, "1V+0/0 2V-0/9"), "1S");
}

#[test]
fn silent_voters_keep_their_vote_until_others_can_take_their_place() {
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3V-0/0"), "");
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3V-0/0 4S-0/0"), "");
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3V-0/0 4S+0/0!"), "");
    assert_eq!(changes(3, 1, 1, "1V+0/0 2V+0/0 3V-0/0 4S-0/0 5B+0/0"), "3S 5V");
    // Three are left of five: as voters among five none of them could be missed.
    assert_eq!(changes(5, 0, 1, "1V+0/0 2V+0/0 3V+0/0 4V-0/0 5V-0/0"), "4S 5S");
    // Two are all that is wanted.
    assert_eq!(changes(2, 0, 1, "1V+0/0 2V+0/0 3V-0/0"), "3S");
}

#[test]
fn members_of_others_count_but_are_left_alone() {
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3S+0/0! 4S+0/5"), "4V");
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3V+0/0 4V+0/9!"), "2S");
    assert_eq!(changes(1, 0, 1, "1V+0/0 2B+0/0!"), "");
    assert_eq!(changes(3, 0, 1, "1V+0/0 2V+0/0 3V-0/0! 4S+0/0"), "3S 4V");
}

#[test]
fn substitutes_come_from_other_domains_with_small_weights() {
    let found = |own: u64, text: &str| -> Vec<u64> {
        substitutes(NodeId(own), &members(text)).iter().map(|id| id.0).collect()
    };
    assert_eq!(found(1, "1V+1/0 2V+2/0 3S+2/0 4S+1/9 5B+1/9 6S-3/0"), [5, 4, 3]);
    assert_eq!(found(1, "1V+1/0 2V+2/0"), Vec::<u64>::new());
    assert_eq!(found(2, "1V+1/0 2S+2/0 3S+2/0"), [3]);
}

/// Any cluster, any targets: the plan is possible, ends where it should, and leaves a quorum at every step.
#[test]
fn no_plan_costs_the_quorum_and_none_is_endless() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..20_000 {
        let count = 1 + draw(9);
        let mut members: Vec<Member> = (1..=count)
            .map(|id| Member {
                id: NodeId(id),
                role: [Role::Voter, Role::StandBy, Role::Spare][usize::try_from(draw(3)).unwrap()],
                online: draw(4) > 0,
                failure_domain: draw(3),
                weight: draw(3),
                left_alone: draw(8) == 0,
            })
            .collect();
        members[0] = Member { role: Role::Voter, online: true, ..members[0] };
        let targets = Targets {
            voters: i32::try_from(draw(7)).unwrap() - 1,
            stand_bys: i32::try_from(draw(5)).unwrap() - 1,
        };
        let voters = |members: &[Member], online: bool| {
            members.iter().filter(|m| m.role == Role::Voter && (m.online || !online)).count()
        };
        if voters(&members, true) <= voters(&members, false) / 2 {
            // Nobody leads such a cluster.
            continue;
        }
        let before = members.clone();
        for (id, role) in plan(targets, NodeId(1), &members) {
            let member = members.iter_mut().find(|member| member.id == id).unwrap();
            assert_ne!(member.role, role, "{before:?} {targets:?}");
            assert!(role == Role::Spare || member.online, "{before:?} {targets:?}");
            assert!(id != NodeId(1), "{before:?} {targets:?}");
            member.role = role;
            assert!(
                voters(&members, true) > voters(&members, false) / 2,
                "{before:?} {targets:?} {id} {role:?}"
            );
        }
        assert_eq!(plan(targets, NodeId(1), &members), [], "{before:?} {targets:?} {members:?}");
    }
}
