use super::*;
use crate::event::CallKind;
use omnirun_redact::Guest;
use proptest::prelude::*;

fn id(text: &str) -> ApiId {
    text.parse().unwrap()
}

fn call(name: &str, permission: Permission, thread: Option<&str>) -> ToolUse {
    ToolUse {
        id: id("c1"),
        kind: CallKind::Tool,
        name: name.into(),
        input: Guest("{}".into()),
        permission,
        thread: thread.map(str::to_owned),
    }
}

fn use_event(permission: Permission) -> Event {
    Event::ToolUse(call("bash", permission, None))
}

fn verdict(allow: bool) -> Event {
    Event::Confirmation {
        call: id("c1"),
        allow,
    }
}

fn router() -> Router {
    Router::new(["bash", "read"])
}

fn history(events: impl IntoIterator<Item = Event>) -> History {
    let mut history = History::default();
    events.into_iter().for_each(|e| history.add(e));
    history
}

/// Both ways in: a history and the stream.
fn both(events: Vec<Event>) -> [Vec<Routed>; 2] {
    let mut live = router();
    let routed = events.clone().into_iter().filter_map(|e| live.live(e)).collect();
    [router().reconcile(history(events)), routed]
}

#[test]
fn the_permission_table() {
    use Permission::{Allow, Ask, Deny};
    let (run, denied) = (Routed::Run(call("bash", Allow, None)), Routed::Denied(id("c1")));
    let ask = Routed::Run(call("bash", Ask, None));
    for (permission, recorded, expected) in [
        (Deny, None, &denied),
        (Deny, Some(true), &denied),
        (Allow, None, &run),
        (Allow, Some(true), &run),
        (Allow, Some(false), &denied),
        (Ask, None, &Routed::Held(id("c1"))),
        (Ask, Some(true), &ask),
        (Ask, Some(false), &denied),
    ] {
        let mut events: Vec<Event> = recorded.map(verdict).into_iter().collect();
        events.push(use_event(permission));
        for routed in both(events) {
            assert_eq!(
                routed,
                std::slice::from_ref(expected),
                "{permission:?} {recorded:?}"
            );
        }
    }
}

#[test]
fn a_verdict_after_the_call_lets_it_go_or_denies_it() {
    let mut r = router();
    assert_eq!(r.live(use_event(Permission::Ask)), Some(Routed::Held(id("c1"))));
    assert_eq!(r.outstanding(), Outstanding { held: 1, in_hand: 0 });
    assert!(matches!(r.live(verdict(true)), Some(Routed::Run(_))));
    assert_eq!(r.live(verdict(true)), None);

    let mut r = router();
    r.live(use_event(Permission::Ask));
    let routed = r.reconcile(history([use_event(Permission::Ask), verdict(false)]));
    assert_eq!(routed, [Routed::Denied(id("c1"))]);
    assert!(r.outstanding().is_empty());
}

#[test]
fn a_call_seen_in_the_history_is_not_queued_again_by_the_stream() {
    let mut r = router();
    assert_eq!(r.reconcile(history([use_event(Permission::Allow)])).len(), 1);
    assert_eq!(r.live(use_event(Permission::Allow)), None);
    assert_eq!(r.reconcile(history([use_event(Permission::Allow)])), []);
}

#[test]
fn a_call_whose_post_failed_comes_back_with_the_next_history_only() {
    let mut r = router();
    r.live(use_event(Permission::Allow));
    r.finished(&id("c1"), false);
    assert_eq!(r.live(use_event(Permission::Allow)), None);
    assert!(matches!(
        r.reconcile(history([use_event(Permission::Allow)]))[..],
        [Routed::Run(_)]
    ));
    r.finished(&id("c1"), true);
    assert_eq!(r.reconcile(history([use_event(Permission::Allow)])), []);
}

#[test]
fn an_answer_from_elsewhere_makes_a_queued_call_not_due() {
    let mut r = router();
    let Some(Routed::Run(queued)) = r.live(use_event(Permission::Allow)) else {
        panic!()
    };
    assert_eq!(r.still_due(&queued), Ok(()));
    r.live(Event::Result { call: id("c1") });
    assert_eq!(r.still_due(&queued), Err(Skip::Answered));
}

#[test]
fn dead_threads_take_their_calls_with_them() {
    let dead = || Event::ThreadTerminated { thread: "t".into() };
    let threaded = |p| Event::ToolUse(call("bash", p, Some("t")));
    for routed in both(vec![dead(), threaded(Permission::Allow)]) {
        assert_eq!(routed, []);
    }
    let mut r = router();
    r.live(threaded(Permission::Ask));
    r.live(dead());
    assert!(r.outstanding().is_empty());
    let mut r = router();
    let Some(Routed::Run(queued)) = r.live(threaded(Permission::Allow)) else {
        panic!()
    };
    r.live(dead());
    assert_eq!(r.still_due(&queued), Err(Skip::DeadThread));
}

#[test]
fn tools_of_others_are_left_alone_and_not_counted_as_answered() {
    for permission in [Permission::Allow, Permission::Ask] {
        let other = || Event::ToolUse(call("web_search", permission, None));
        let mut r = router();
        assert_eq!(r.live(other()), Some(Routed::NotOwned(id("c1"))));
        assert!(r.outstanding().is_empty());
        assert_eq!(r.reconcile(history([other()])), [Routed::NotOwned(id("c1"))]);
    }
}

#[test]
fn a_history_keeps_no_input_of_an_answered_call() {
    let h = history([
        use_event(Permission::Allow),
        Event::Result { call: id("c1") },
        Event::Idle(Stop::TurnEnded),
        verdict(true),
    ]);
    assert!(h.calls.is_empty() && h.turn_ended() && !h.is_over());
    assert!(history([Event::Deleted]).is_over() && history([Event::Terminated, Event::Other]).is_over());
}

fn any_event() -> impl Strategy<Value = Event> {
    let call_id = (0u8..6).prop_map(|n| id(&format!("c{n}")));
    let thread = || prop::option::of((0u8..2).prop_map(|n| format!("t{n}")));
    let permission = prop_oneof![
        Just(Permission::Allow),
        Just(Permission::Ask),
        Just(Permission::Deny)
    ];
    prop_oneof![
        4 => (call_id.clone(), permission, thread(), prop::sample::select(vec!["bash", "read", "web_search"])).prop_map(
            |(id, permission, thread, name)| Event::ToolUse(ToolUse { id, permission, thread, ..call(name, Permission::Allow, None) })
        ),
        2 => call_id.clone().prop_map(|call| Event::Result { call }),
        2 => (call_id, any::<bool>()).prop_map(|(call, allow)| Event::Confirmation { call, allow }),
        1 => (0u8..2).prop_map(|n| Event::ThreadTerminated { thread: format!("t{n}") }),
        1 => Just(Event::Idle(Stop::TurnEnded)),
    ]
}

/// What a worker does between events.
#[derive(Debug, Clone)]
enum Act {
    Log(Event),
    Reconnect,
    Finish { posted: bool },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => any_event().prop_map(Act::Log),
        1 => Just(Act::Reconnect),
        2 => prop::bool::weighted(0.7).prop_map(|posted| Act::Finish { posted }),
    ];
    prop::collection::vec(act, 0..80)
}

proptest! {
    /// Any log of events, cut by reconnects at any place: no call is ever in hand twice, none runs after its answer or
    /// a denial, none that is not ours runs, and after a last reconnect nothing that is due has been forgotten.
    #[test]
    fn no_call_is_lost_or_doubled(acts in acts()) {
        let mut r = router();
        let mut log: Vec<Event> = Vec::new();
        let mut queue: Vec<ToolUse> = Vec::new();
        let mut first: HashMap<ApiId, ToolUse> = HashMap::new();
        let mut done: HashSet<ApiId> = HashSet::new();
        let mut acts = acts;
        acts.push(Act::Reconnect);
        for act in acts {
            let routed = match act {
                Act::Log(event) => {
                    // An id names one call for ever.
                    if let Event::ToolUse(u) = &event {
                        if first.contains_key(&u.id) { continue; }
                        first.insert(u.id.clone(), u.clone());
                    }
                    if let Event::Result { call } = &event { done.insert(call.clone()); }
                    log.push(event.clone());
                    r.live(event).into_iter().collect()
                }
                Act::Reconnect => r.reconcile(history(log.clone())),
                Act::Finish { posted } => {
                    if let Some(call) = queue.pop() {
                        match r.still_due(&call) {
                            Ok(()) => {
                                prop_assert!(!done.contains(&call.id));
                                if posted {
                                    done.insert(call.id.clone());
                                    log.push(Event::Result { call: call.id.clone() });
                                }
                                r.finished(&call.id, posted);
                            }
                            Err(_) => r.finished(&call.id, false),
                        }
                    }
                    Vec::new()
                }
            };
            for routed in routed {
                if let Routed::Run(call) = routed {
                    prop_assert!(call.name != "web_search");
                    prop_assert!(call.permission != Permission::Deny);
                    prop_assert!(!done.contains(&call.id));
                    prop_assert!(queue.iter().all(|q| q.id != call.id));
                    queue.push(call);
                }
            }
            prop_assert_eq!(r.outstanding().in_hand, queue.len());
        }
        let verdicts: HashMap<ApiId, bool> = log.iter().rev().filter_map(|e| match e {
            Event::Confirmation { call, allow } => Some((call.clone(), *allow)),
            _ => None,
        }).collect();
        let dead: HashSet<String> = log.iter().filter_map(|e| match e {
            Event::ThreadTerminated { thread } => Some(thread.clone()),
            _ => None,
        }).collect();
        for call in first.values() {
            let allowed = matches!(
                (call.permission, verdicts.get(&call.id)),
                (Permission::Allow, None) | (Permission::Allow | Permission::Ask, Some(true))
            );
            let due = allowed && call.name != "web_search" && !done.contains(&call.id)
                && !call.thread.as_ref().is_some_and(|t| dead.contains(t));
            if due {
                // A call may run before a later verdict forbids it; the first verdict decides.
                prop_assert!(queue.iter().any(|q| q.id == call.id), "{:?} was forgotten", call.id);
            }
        }
    }
}
