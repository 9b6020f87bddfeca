//! The contract, rule by rule, between two threads of one process.

use roadrunner_core::testing::{ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger};
use roadrunner_core::{conformance, LinearMemory, Method, DEFAULT_LIMIT};
use roadrunner_mem::testing::{slot_options, By, SlotEnd};
use roadrunner_mem::{link, Link, PageBuffer, PagePool, Policy, Slots, PAGE_SIZE};
use std::ops::RangeInclusive;

conformance!(inline, Threads::opaque(Method::Inline));
conformance!(inline_pages, Threads::pages(Method::Inline));
conformance!(copy, Threads::opaque(Method::Copy));
conformance!(copy_pages, Threads::pages(Method::Copy));
conformance!(exchange, Threads::pages(Method::Exchange));
conformance!(exchange_pool, Threads::pooled());
conformance!(
    slot,
    BySlots {
        by: By::Loan,
        trusted: false
    }
);
conformance!(
    slot_trusted,
    BySlots {
        by: By::Loan,
        trusted: true
    }
);
conformance!(
    shared,
    BySlots {
        by: By::Share,
        trusted: false
    }
);

/// Two threads, by one of the methods.
struct Threads {
    method: Method,
    /// Whether the memories let their pages go.
    pages: bool,
    /// One pool for all links.
    pool: Option<PagePool>,
}

impl Threads {
    fn opaque(method: Method) -> Self {
        Self {
            method,
            pages: false,
            pool: None,
        }
    }

    fn pages(method: Method) -> Self {
        Self {
            pages: true,
            ..Self::opaque(method)
        }
    }

    fn pooled() -> Self {
        Self {
            pool: Some(PagePool::default()),
            ..Self::pages(Method::Exchange)
        }
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        policy.bytes = 8 << 20;
        // Less than by default, so that many payloads of a test are exchanged.
        policy.exchange = 1 << 20;
        if let Some(pool) = &self.pool {
            policy.pool = pool.clone();
        }
        policy
    }

    fn memory(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        if self.pages {
            Box::new(PageBuffer::new(len as usize).expect("memory"))
        } else {
            roadrunner_core::testing::host_memory(len)
        }
    }

    /// The method by which the sender parts with a payload.
    fn leaves_by(&self, case: Case) -> Method {
        let page = PAGE_SIZE as u64;
        let start = case.offset.next_multiple_of(page);
        let whole_pages = ((case.offset + case.len) / page * page).saturating_sub(start);
        if case.len <= self.policy().inline {
            Method::Inline
        } else if self.pages && case.given && whole_pages >= self.policy().exchange {
            Method::Exchange
        } else {
            Method::Copy
        }
    }
}

impl Fixture for Threads {
    type Link = Link;

    fn name(&self) -> &str {
        self.method.name()
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        let mut policy = self.policy();
        policy.limit = limit;
        link(policy)
    }

    fn expected(&self, case: Case) -> Expected {
        // An empty payload is copied by nobody.
        let copies = u8::from(case.len > 0);
        match self.leaves_by(case) {
            Method::Inline => Expected::by(Method::Inline, copies, 2 * copies),
            // Pages that lie otherwise in the destination cannot take their place there.
            Method::Exchange if case.offset % PAGE_SIZE as u64 != 0 => Expected {
                sent: (Method::Exchange, 0),
                delivered: (Method::Copy, 1),
            },
            Method::Exchange => Expected::by(Method::Exchange, 0, 0),
            _ => Expected::by(Method::Copy, 1, 1),
        }
    }

    fn in_flight(&self) -> InFlight {
        let policy = self.policy();
        InFlight {
            bytes: policy.bytes,
            messages: policy.messages as u64,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        let policy = self.policy();
        match self.method {
            Method::Inline => 0..=policy.inline,
            // From where destinations are aligned to pages on, with a page for what is less than one at both ends.
            Method::Exchange => (1 << 20) + PAGE_SIZE as u64..=DEFAULT_LIMIT,
            _ if self.pages => policy.inline + 1..=policy.exchange - 1,
            _ => policy.inline + 1..=DEFAULT_LIMIT,
        }
    }

    fn waits_for_receiver(&self, case: Case) -> bool {
        self.leaves_by(case) == Method::Copy
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<Link>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn strangers(&self) -> Result<Vec<Stranger<Link>>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn source(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        self.memory(len)
    }

    fn destination(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        self.memory(len)
    }
}

/// Two threads whose functions produce their payloads in slots, or share them.
struct BySlots {
    by: By,
    trusted: bool,
}

impl BySlots {
    fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        policy.bytes = 8 << 20;
        // Less than by default, so that many payloads of a test are exchanged.
        policy.exchange = 1 << 20;
        policy.messages = 16;
        policy.trusted = self.trusted;
        policy
    }
}

impl Fixture for BySlots {
    type Link = SlotEnd<Link>;

    fn name(&self) -> &str {
        match (self.by, self.trusted) {
            (By::Share, _) => "shared",
            (By::Loan, false) => "slot",
            (By::Loan, true) => "trusted slot",
        }
    }

    fn open(&self, limit: u64) -> (SlotEnd<Link>, SlotEnd<Link>) {
        let mut policy = self.policy();
        policy.limit = limit;
        slot_link(policy, self.by)
    }

    fn expected(&self, _case: Case) -> Expected {
        match self.by {
            By::Loan => Expected::by(Method::Slot, 0, 0),
            By::Share => Expected::by(Method::Map, 1, 1),
        }
    }

    fn in_flight(&self) -> InFlight {
        let policy = self.policy();
        InFlight {
            bytes: policy.bytes,
            messages: policy.messages as u64,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        1..=DEFAULT_LIMIT
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<SlotEnd<Link>>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn strangers(&self) -> Result<Vec<Stranger<SlotEnd<Link>>>, Missing> {
        Err(Missing::NotApplicable)
    }
}

fn slot_link(policy: Policy, by: By) -> (SlotEnd<Link>, SlotEnd<Link>) {
    let (here, there) = link(policy);
    let end = |link| SlotEnd::new(link, by, Slots::new(slot_options()));
    (end(here), end(there))
}
