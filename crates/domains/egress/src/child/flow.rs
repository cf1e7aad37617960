//! One thing that a guest wants to do: a connection, a request, a tunnel, or a query that was refused. It ends as one line
//! of the audit log, however it ends: the line is written when the [`Flow`] is dropped.
//!
//! A flow is begun when it is known that there is one, admitted when it is known where to, and noted what became of it.
//! Admission and a change of the policy exclude each other, so no connection slips through between the decision and the
//! list of what is to be decided anew ([`super::guest::Guest::update`]).

use super::{
    events::Slot,
    guest::Guest,
    meter::{Shares, Spent, Way},
};
use omnirun_egress_policy::{AuditLine, Decision, Name, Policy, Protocol, Reason, Verdict};
use std::{
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Where a flow wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// To a name, which is resolved here.
    Name(Name, u16),
    /// To an address that the guest chose.
    Address(SocketAddrV4),
    /// To an address that the guest chose, where a name was to be expected and none was said.
    Unnamed(SocketAddrV4),
}

impl Subject {
    /// What a policy says of it.
    pub(super) fn decide(&self, policy: &Policy) -> Decision {
        match self {
            Self::Name(name, port) => policy.name(name, *port),
            Self::Address(to) => policy.address((*to).into()),
            Self::Unnamed(to) => {
                let mut decision = policy.address((*to).into());
                // A name that is denied must not be reached by leaving it out.
                if decision.reason == Reason::Public && policy.proxies_web() && !policy.log_only() {
                    decision.verdict = Verdict::Deny;
                }
                if matches!(decision.reason, Reason::NotListed | Reason::Public) && !decision.allows() {
                    decision.reason = Reason::NoName;
                }
                decision
            }
        }
    }
}

/// What others than the flow's own task see of it.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The policy does not allow it any more, or its guest is let go.
    pub(super) cut: CancellationToken,
    /// Its descriptors are closed.
    pub(super) ended: CancellationToken,
    shares: Mutex<Shares>,
    up: AtomicU64,
    down: AtomicU64,
}

impl Shared {
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_shares(&self, shares: Shares) {
        *self.shares() = shares;
    }
}

/// What is written about it.
#[derive(Debug)]
struct Line {
    protocol: Protocol,
    name: Option<Name>,
    to: Option<SocketAddr>,
    dialled: Option<SocketAddr>,
    port: u16,
    verdict: Verdict,
    reason: Reason,
    rule: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    guest: Arc<Guest>,
    shared: Arc<Shared>,
    /// Its number among those that were admitted.
    admitted: Option<u64>,
    line: Mutex<Line>,
    begun: Instant,
    slot: Option<Slot>,
    setup: Option<OwnedSemaphorePermit>,
}

impl Flow {
    /// Waits until the guest may begin one more.
    pub(super) async fn begin(
        guest: &Arc<Guest>,
        protocol: Protocol,
        to: Option<SocketAddrV4>,
        port: u16,
    ) -> Self {
        let slot = guest.may_begin().await;
        Self {
            guest: Arc::clone(guest),
            shared: Arc::default(),
            admitted: None,
            line: Mutex::new(Line {
                protocol,
                name: None,
                to: to.map(SocketAddr::V4),
                dialled: None,
                port,
                verdict: Verdict::Deny,
                reason: Reason::Failed,
                rule: None,
            }),
            begun: Instant::now(),
            slot,
            setup: None,
        }
    }

    /// Waits until the guest may set up one more: until it is known where to, and there is a connection.
    pub(super) async fn sets_up(&mut self) {
        self.setup = Arc::clone(&self.guest.setups).acquire_owned().await.ok();
    }

    /// That is done.
    pub(super) fn is_set_up(&mut self) {
        self.setup = None;
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose it is.
    pub(super) fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }

    /// It turned out to be of this kind.
    pub(super) fn is(&self, protocol: Protocol) {
        self.line().protocol = protocol;
    }

    /// It says this name, be it allowed or not.
    pub(super) fn says(&self, name: &Name) {
        self.line().name = Some(name.clone());
    }

    /// This address is dialled.
    pub(super) fn dials(&self, address: SocketAddrV4) {
        self.line().dialled = Some(address.into());
    }

    /// It does not go through.
    pub(super) fn refuse(&self, reason: Reason) {
        let mut line = self.line();
        line.verdict = Verdict::Deny;
        line.reason = reason;
    }

    /// This entry decided.
    pub(super) fn by(&self, rule: Option<Arc<str>>) {
        self.line().rule = rule;
    }

    /// It wants to go to this port.
    pub(super) fn aims(&self, port: u16) {
        self.line().port = port;
    }

    /// It would have gone through; this came of it.
    pub(super) fn note(&self, reason: Reason) {
        self.line().reason = reason;
    }

    /// Asks the policy; on yes it is listed among those to be cut should the policy change.
    pub(super) fn admit(&mut self, subject: Subject) -> Result<(), Reason> {
        match &subject {
            Subject::Name(name, _) => self.says(name),
            Subject::Address(to) | Subject::Unnamed(to) => self.line().to = Some((*to).into()),
        }
        let (decision, admitted) = self.guest.admit(subject, &self.shared);
        let mut line = self.line();
        line.verdict = decision.verdict;
        line.reason = decision.reason;
        line.rule = decision.rule;
        drop(line);
        self.admitted = admitted;
        match admitted {
            Some(_) => Ok(()),
            None => Err(decision.reason),
        }
    }

    /// Completes when it is to end at once.
    pub(super) async fn cut(&self) {
        self.shared.cut.cancelled().await;
    }

    /// The same, to be kept.
    pub(super) fn cut_token(&self) -> CancellationToken {
        self.shared.cut.clone()
    }

    /// How many bytes may go now; or how long to wait.
    pub(super) fn ask(&self, way: Way, most: u64) -> Result<Result<u64, Duration>, Spent> {
        self.shared.shares().ask(way, most)
    }

    /// How many bytes are left to it in all; nothing if that is not bounded.
    pub(super) fn left(&self, way: Way) -> Option<u64> {
        self.shared.shares().left(way)
    }

    /// They have gone.
    pub(super) fn spend(&self, way: Way, bytes: u64) {
        let of_this = match way {
            Way::Up => &self.shared.up,
            Way::Down => &self.shared.down,
        };
        of_this.fetch_add(bytes, Ordering::Relaxed);
        self.guest.count_bytes(way, bytes);
        self.shared.shares().spend(way, bytes);
    }

    /// All bytes so far.
    pub(super) fn moved(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed) + self.shared.down.load(Ordering::Relaxed)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.shared.cut.is_cancelled() && self.admitted.is_some() {
            line.reason = Reason::Changed;
        }
        let (verdict, reason) = (line.verdict, line.reason);
        self.shared.set_shares(Shares::default());
        if let Some(slot) = self.slot.take() {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let line = AuditLine {
                time_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
                sandbox: String::new(),
                session: None,
                protocol: line.protocol,
                name: line.name.take().map(|name| name.as_str().to_owned()),
                to: line.to,
                dialled: line.dialled,
                port: line.port,
                verdict,
                reason,
                rule: line.rule.take().map(|rule| rule.to_string()),
                bytes_up: self.shared.up.load(Ordering::Relaxed),
                bytes_down: self.shared.down.load(Ordering::Relaxed),
                duration_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            self.guest.audit(line, slot);
        }
        // Last: whoever waits for its end goes on, and says so behind its line.
        self.guest.ended(self.admitted, verdict, reason);
        self.shared.ended.cancel();
    }
}
