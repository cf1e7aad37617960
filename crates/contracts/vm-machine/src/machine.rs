//! Admission and transitions.

use crate::state::{Kind, Phase, State, Why};

/// What somebody wants to do with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Start its VMM.
    Start,
    /// Wake it.
    Wake,
    /// Give it a disk and an identity.
    Claim,
    /// Run something in it.
    Use,
    /// Write its memory and devices to a snapshot.
    Snapshot,
    /// End it.
    End,
}

/// May this be done now?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Accept,
    /// It is so, or on its way to be so, already.
    AlreadySo,
    /// No.
    Denied(Denial),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It is not yet ready for this.
    #[error("the sandbox is still {0}")]
    TooEarly(Phase),
    /// It serves somebody already.
    #[error("the sandbox is claimed already, by {0}")]
    Claimed(String),
    /// A cold boot is nobody's to use; a clone is never snapshot while it is somebody's.
    #[error("this is not done with a {}", match .0 { Kind::Boot => "cold boot", Kind::Clone => "clone" })]
    WrongKind(Kind),
    /// It ends or has ended.
    #[error("the sandbox is gone: {0}")]
    Gone(Why),
}

/// What has happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its VMM runs.
    Started,
    /// Its wake succeeded.
    Woken,
    /// A claim was admitted and begins.
    ClaimBegun {
        /// What it is to serve.
        purpose: String,
    },
    /// The claim succeeded.
    ClaimDone,
    /// It is to end.
    End(Why),
    /// The teardown has checked that nothing is left.
    Checked,
}

/// An event that cannot happen in this state: a mistake in the owner task. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {phase} cannot see {event:?}")]
pub struct Unexpected {
    /// The state.
    pub phase: Phase,
    /// The event.
    pub event: Event,
}

/// One VM's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    kind: Kind,
    state: State,
}

impl Machine {
    /// A VM that has a row and nothing else.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            state: State::Creating,
        }
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Why it exists.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// May this be done now?
    pub fn admit(&self, request: Request) -> Admission {
        use Admission::{Accept, AlreadySo, Denied};
        let phase = self.state.phase();
        match (request, &self.state) {
            (Request::End, State::Ending { .. } | State::Ended { .. }) => AlreadySo,
            (Request::End, _) => Accept,
            (_, State::Ending { why } | State::Ended { why }) => Denied(Denial::Gone(why.clone())),
            (Request::Start, State::Creating) => Accept,
            (Request::Start, _) => AlreadySo,
            (Request::Snapshot, State::Starting) if self.kind == Kind::Boot => Accept,
            (Request::Snapshot, State::Creating) if self.kind == Kind::Boot => {
                Denied(Denial::TooEarly(phase))
            }
            (Request::Wake | Request::Claim | Request::Use, _) if self.kind == Kind::Boot => {
                Denied(Denial::WrongKind(self.kind))
            }
            (Request::Snapshot, State::Claimed { .. }) => Accept,
            (Request::Snapshot, _) if self.kind == Kind::Clone => Denied(Denial::TooEarly(phase)),
            (Request::Snapshot, _) => Denied(Denial::WrongKind(self.kind)),
            (Request::Wake, State::Starting) => Accept,
            (Request::Wake, State::Creating) => Denied(Denial::TooEarly(phase)),
            (Request::Wake, _) => AlreadySo,
            (Request::Claim, State::Pooled) => Accept,
            (Request::Claim, State::Claiming { purpose } | State::Claimed { purpose }) => {
                Denied(Denial::Claimed(purpose.clone()))
            }
            (Request::Claim, _) => Denied(Denial::TooEarly(phase)),
            (Request::Use, State::Claimed { .. }) => Accept,
            (Request::Use, _) => Denied(Denial::TooEarly(phase)),
        }
    }

    /// Takes note of what has happened. A second [`Event::End`] changes nothing: the first reason is kept.
    ///
    /// # Errors
    /// [`Unexpected`], with the state unchanged.
    pub fn apply(&mut self, event: Event) -> Result<&State, Unexpected> {
        let next = match (&self.state, &event) {
            (State::Ending { .. } | State::Ended { .. }, Event::End(_)) => return Ok(&self.state),
            (_, Event::End(why)) => State::Ending { why: why.clone() },
            (State::Creating, Event::Started) => State::Starting,
            (State::Starting, Event::Woken) if self.kind == Kind::Clone => State::Pooled,
            (State::Pooled, Event::ClaimBegun { purpose }) => State::Claiming {
                purpose: purpose.clone(),
            },
            (State::Claiming { purpose }, Event::ClaimDone) => State::Claimed {
                purpose: purpose.clone(),
            },
            (State::Ending { why }, Event::Checked) => State::Ended { why: why.clone() },
            (state, _) => {
                return Err(Unexpected {
                    phase: state.phase(),
                    event,
                });
            }
        };
        self.state = next;
        Ok(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn why() -> impl Strategy<Value = Why> {
        prop_oneof![
            Just(Why::Released),
            Just(Why::Shutdown),
            Just(Why::Exited {
                code: Some(0),
                signal: None
            }),
            Just(Why::Failed {
                step: "wake",
                reason: "no".into()
            }),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Started),
            3 => Just(Event::Woken),
            3 => Just(Event::ClaimBegun { purpose: "p".into() }),
            3 => Just(Event::ClaimDone),
            1 => why().prop_map(Event::End),
            1 => Just(Event::Checked),
        ]
    }

    fn requests() -> [Request; 6] {
        [
            Request::Start,
            Request::Wake,
            Request::Claim,
            Request::Use,
            Request::Snapshot,
            Request::End,
        ]
    }

    proptest! {
        /// In any order of events, possible ones and not: phases only move forward, the end is final, its first
        /// reason stays, and an event that is refused changes nothing.
        #[test]
        fn a_life_goes_one_way(kind in prop_oneof![Just(Kind::Boot), Just(Kind::Clone)],
                               events in prop::collection::vec(event(), 0..40)) {
            let mut machine = Machine::new(kind);
            let mut claims = 0;
            for event in events {
                let before = machine.clone();
                match machine.apply(event.clone()) {
                    Ok(_) => {}
                    Err(_) => prop_assert_eq!(&before, &machine),
                }
                let (was, is) = (before.state().phase(), machine.state().phase());
                prop_assert!(is >= was, "{was} -> {is}");
                if was < Phase::Claiming && is == Phase::Claiming { claims += 1; }
                if let Some(first) = before.state().why() { prop_assert_eq!(Some(first), machine.state().why()); }
                if is == Phase::Ended && was != Phase::Ended { prop_assert_eq!(event, Event::Checked); }
                if kind == Kind::Boot { prop_assert!(!matches!(is, Phase::Pooled | Phase::Claiming | Phase::Claimed)); }
            }
            prop_assert!(claims <= 1);
        }

        /// What is admitted can be done: the event that follows an accepted request is never unexpected. And a VM can
        /// be ended from everywhere.
        #[test]
        fn admission_and_transitions_agree(kind in prop_oneof![Just(Kind::Boot), Just(Kind::Clone)],
                                           events in prop::collection::vec(event(), 0..40)) {
            let mut machine = Machine::new(kind);
            for event in events { let _ = machine.apply(event); }
            for request in requests() {
                let event = match request {
                    Request::Start => Event::Started,
                    Request::Wake => Event::Woken,
                    Request::Claim => Event::ClaimBegun { purpose: "q".into() },
                    Request::Snapshot => Event::End(Why::Snapshotted),
                    Request::End => Event::End(Why::Released),
                    Request::Use => continue,
                };
                let admission = machine.admit(request);
                if admission == Admission::Accept {
                    prop_assert!(machine.clone().apply(event).is_ok());
                }
                if request == Request::End { prop_assert!(!matches!(admission, Admission::Denied(_))); }
            }
            if machine.state().why().is_some() {
                for request in [Request::Start, Request::Wake, Request::Claim, Request::Use, Request::Snapshot] {
                    prop_assert!(matches!(machine.admit(request), Admission::Denied(Denial::Gone(_))));
                }
            }
        }
    }

    #[test]
    fn a_claimed_sandbox_says_by_whom() {
        let mut m = Machine::new(Kind::Clone);
        for event in [
            Event::Started,
            Event::Woken,
            Event::ClaimBegun {
                purpose: "session s1".into(),
            },
        ] {
            m.apply(event).unwrap();
        }
        assert_eq!(
            m.admit(Request::Claim),
            Admission::Denied(Denial::Claimed("session s1".into()))
        );
        assert_eq!(
            m.admit(Request::Use),
            Admission::Denied(Denial::TooEarly(Phase::Claiming))
        );
        m.apply(Event::ClaimDone).unwrap();
        assert_eq!(m.admit(Request::Use), Admission::Accept);
    }
}
