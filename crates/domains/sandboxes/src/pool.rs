//! Spare clones: awake, nobody's, ready to be claimed.
//!
//! The target is one spare for each user (each active session), within a memory budget of the whole process. Spares are
//! made when a user says that now is a good time, and never by taking: while a call waits, the CPU is the call's.
//!
//! A clone on its way that nobody has taken yet is taken before a new one is begun: it has a head start.
//!
//! Beside the spares of a shelf one clone waits whose process is ready to load the snapshot ([`Waiting`]): the next clone
//! of it that has to be made, whoever wants it, begins there. It costs little, is made after the spares, and goes first
//! when there is no room for one.

use crate::{
    Card, EngineError, engine::Inner, sandbox::Sandbox, snapshot::Template, spec::SandboxSpec,
    waiting::Waiting,
};
use omnirun_ids::{ByteSize, Digest};
use omnirun_vm_machine::Why;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// What an idle clone is reckoned to cost until one has been measured: what it has touched by waking, and the VMM.
const FIRST_GUESS: ByteSize = ByteSize::mib(96);

/// What a process is reckoned to cost that has loaded nothing. Firecracker has 3 MiB of its own then, QEMU 16.
const WAITING: u64 = 24 << 20;

/// What makes one spare as good as another: the snapshot, and where the card leads.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    snapshot: Digest,
    card: Card,
}

impl Kind {
    fn of(template: &Template, card: Card) -> Self {
        let snapshot = template.digest.clone();
        Self { snapshot, card }
    }
}

#[derive(Default)]
struct Shelf {
    users: usize,
    spares: VecDeque<Sandbox>,
    coming: VecDeque<oneshot::Receiver<Result<Sandbox, EngineError>>>,
    waiting: Option<Waiting>,
    /// Private bytes of a spare, as last measured.
    cost: Option<u64>,
}

impl Shelf {
    fn held(&self) -> usize {
        self.spares.len() + self.coming.len()
    }

    fn cost(&self) -> u64 {
        self.cost.unwrap_or(FIRST_GUESS.0)
    }

    /// What its spares cost, and what waits beside them.
    fn total(&self) -> (u64, u64) {
        let waiting = if self.waiting.is_some() { WAITING } else { 0 };
        (self.held() as u64 * self.cost(), waiting)
    }
}

/// The spares of a process, by their kind.
pub(crate) struct Pool {
    shelves: Mutex<HashMap<Kind, Shelf>>,
    budget: ByteSize,
}

impl Pool {
    pub(crate) fn new(budget: ByteSize) -> Self {
        Self {
            shelves: Mutex::new(HashMap::new()),
            budget,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all spares go.
    pub(crate) fn clear(&self) {
        let shelves = std::mem::take(&mut *self.lock());
        drop(shelves);
    }

    /// How many spares there are or will be.
    pub(crate) fn held(&self) -> usize {
        self.lock().values().map(Shelf::held).sum()
    }

    fn join(&self, kind: &Kind) {
        self.lock().entry(kind.clone()).or_default().users += 1;
    }

    /// A user leaves; what is more than the others need goes.
    fn leave(&self, kind: &Kind) {
        let mut surplus = Vec::new();
        let mut shelves = self.lock();
        if let Some(shelf) = shelves.get_mut(kind) {
            shelf.users = shelf.users.saturating_sub(1);
            while shelf.held() > shelf.users {
                // One on its way ends by itself when nobody receives it.
                if shelf.coming.pop_back().is_none() {
                    surplus.extend(shelf.spares.pop_front());
                }
            }
            if shelf.users == 0 {
                shelves.remove(kind);
            }
        }
        drop(shelves);
        for sandbox in surplus {
            sandbox.end_for(Why::Surplus);
        }
    }

    fn pop(&self, kind: &Kind) -> Option<Popped> {
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(kind)?;
        while let Some(spare) = shelf.spares.pop_front() {
            if spare.is_alive() {
                return Some(Popped::Spare(spare));
            }
        }
        shelf.coming.pop_front().map(Popped::Coming)
    }

    /// Room for one more spare, if it is wanted: a place for it, to be filled.
    fn reserve(&self, kind: &Kind) -> Option<oneshot::Sender<Result<Sandbox, EngineError>>> {
        let mut shelves = self.lock();
        let (spares, waiting) = total(&shelves);
        let shelf = shelves.get_mut(kind)?;
        shelf.spares.retain(Sandbox::is_alive);
        let spares = spares.saturating_add(shelf.cost());
        if shelf.held() >= shelf.users || spares > self.budget.0 {
            return None;
        }
        if spares.saturating_add(waiting) > self.budget.0 {
            shelves.values_mut().for_each(|shelf| shelf.waiting = None);
        }
        let shelf = shelves.get_mut(kind)?;
        let (fill, place) = oneshot::channel();
        shelf.coming.push_back(place);
        Some(fill)
    }

    /// Takes the one that waits for this snapshot.
    pub(crate) fn take_waiting(&self, template: &Arc<Template>, card: Card) -> Option<Waiting> {
        let waiting = self.lock().get_mut(&Kind::of(template, card))?.waiting.take();
        waiting.filter(|waiting| waiting.serves(template))
    }

    /// Has one wait for this snapshot, if somebody may want it, none does, and there is room.
    fn have_waiting(
        &self,
        template: &Arc<Template>,
        card: Card,
        begin: impl FnOnce() -> Result<Waiting, EngineError>,
    ) -> Result<(), EngineError> {
        let kind = Kind::of(template, card);
        let mut shelves = self.lock();
        let Some(shelf) = shelves.get_mut(&kind) else {
            return Ok(());
        };
        shelf.waiting.take_if(|waiting| !waiting.serves(template));
        if shelf.waiting.is_some() {
            return Ok(());
        }
        let (spares, waiting) = total(&shelves);
        if spares.saturating_add(waiting + WAITING) <= self.budget.0
            && let Some(shelf) = shelves.get_mut(&kind)
        {
            shelf.waiting = Some(begin()?);
        }
        Ok(())
    }

    /// Spares that have arrived leave the places they came in.
    fn settle(&self, kind: &Kind, cost: Option<u64>) {
        let mut failed = None;
        if let Some(shelf) = self.lock().get_mut(kind) {
            shelf.cost = cost.or(shelf.cost);
            let mut waiting = VecDeque::new();
            for mut place in shelf.coming.drain(..) {
                match place.try_recv() {
                    Ok(Ok(sandbox)) => shelf.spares.push_back(sandbox),
                    Ok(Err(error)) => failed = Some(error),
                    Err(oneshot::error::TryRecvError::Empty) => waiting.push_back(place),
                    Err(oneshot::error::TryRecvError::Closed) => {}
                }
            }
            shelf.coming = waiting;
        }
        if let Some(error) = failed {
            // Whoever takes next clones for himself and gets his own error.
            tracing::warn!(error = %crate::error::chain(&error), "a spare sandbox could not be made");
        }
    }
}

fn total(shelves: &HashMap<Kind, Shelf>) -> (u64, u64) {
    let all = shelves.values().map(Shelf::total);
    all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

enum Popped {
    Spare(Sandbox),
    Coming(oneshot::Receiver<Result<Sandbox, EngineError>>),
}

/// One user's access to the pool: for as long as it is held, one spare is kept for it. Dropping it lets the spare go.
pub struct PoolHandle {
    engine: Arc<Inner>,
    spec: SandboxSpec,
    joined: Mutex<Option<Arc<Joined>>>,
}

/// The template, and the membership in its shelf.
struct Joined {
    engine: Arc<Inner>,
    template: Arc<Template>,
    kind: Kind,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.engine.pool.leave(&self.kind);
    }
}

impl PoolHandle {
    pub(crate) fn new(engine: Arc<Inner>, spec: SandboxSpec) -> Arc<Self> {
        Arc::new(Self {
            engine,
            spec,
            joined: Mutex::new(None),
        })
    }

    /// The template that was joined last, unless its time is over or it turned out to be bad.
    fn current(&self) -> Option<Arc<Joined>> {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).clone();
        joined.filter(|j| self.engine.is_current(&j.template))
    }

    async fn joined(&self) -> Result<Arc<Joined>, EngineError> {
        if let Some(joined) = self.current() {
            return Ok(joined);
        }
        let template = self.engine.prepare(&self.spec).await?;
        let mut slot = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else of this handle may have waited for the same.
        if let Some(joined) = slot.as_ref().filter(|j| Arc::ptr_eq(&j.template, &template)) {
            return Ok(joined.clone());
        }
        // Before the earlier one goes, which most likely has the same shelf.
        let kind = Kind::of(&template, self.spec.card);
        self.engine.pool.join(&kind);
        let joined = Arc::new(Joined {
            engine: self.engine.clone(),
            template,
            kind,
        });
        let earlier = slot.replace(joined.clone());
        drop((slot, earlier));
        Ok(joined)
    }

    /// A sandbox that is awake and nobody's: a spare, one that is on its way, or one cloned now.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn take(&self) -> Result<Sandbox, EngineError> {
        let joined = self.joined().await?;
        while let Some(popped) = self.engine.pool.pop(&joined.kind) {
            match popped {
                Popped::Spare(sandbox) => return Ok(sandbox),
                Popped::Coming(place) => {
                    if let Ok(Ok(sandbox)) = place.await {
                        return Ok(sandbox);
                    }
                }
            }
        }
        self.engine
            .clone_of(&self.spec, &joined.template, None)
            .await
            .map(|(sandbox, _)| sandbox)
    }

    /// A good time to make a spare. Returns at once.
    pub fn refill(self: &Arc<Self>) {
        // The place is taken now, if the snapshot is known: whoever takes next finds it.
        let place = match self.current() {
            Some(joined) => match self.engine.pool.reserve(&joined.kind) {
                Some(fill) => Some(fill),
                None => return self.have_waiting(&joined.template),
            },
            None => None,
        };
        let handle = self.clone();
        self.engine.registry.help(async move {
            let Ok(joined) = handle.joined().await else { return };
            let Some(fill) = place.or_else(|| handle.engine.pool.reserve(&joined.kind)) else {
                return;
            };
            let made = handle
                .engine
                .clone_of(&handle.spec, &joined.template, None)
                .await
                .map(|(s, _)| s);
            let cost = match &made {
                Ok(sandbox) => sandbox.memory().await.ok().map(|(_, private)| private),
                Err(_) => None,
            };
            // Nobody there any more: the sandbox comes back and is dropped, which ends it.
            drop(fill.send(made));
            handle.engine.pool.settle(&joined.kind, cost);
            handle.have_waiting(&joined.template);
        });
    }

    /// Has a clone wait whose process is ready.
    fn have_waiting(&self, template: &Arc<Template>) {
        let begin = || self.engine.begin_clone(&self.spec, template, None);
        if let Err(error) = self.engine.pool.have_waiting(template, self.spec.card, begin) {
            tracing::debug!(%error, "no clone waits");
        }
    }
}
