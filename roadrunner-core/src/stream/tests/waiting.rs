//! What a link waits for, and what it says of that.

use super::*;
use std::cell::Cell;

/// Counts the reads and the writes that were ready to wait.
struct Patient {
    wire: TestWire,
    window: usize,
    waits: Rc<Cell<u32>>,
    waits_to_write: Rc<Cell<u32>>,
}

impl Patient {
    fn new(wire: TestWire, window: usize) -> Self {
        Self {
            wire,
            window,
            waits: Rc::default(),
            waits_to_write: Rc::default(),
        }
    }
}

fn count(waits: &Cell<u32>, deadline: Deadline) {
    waits.set(waits.get() + u32::from(!deadline.has_passed()));
}

impl Wire for Patient {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        count(&self.waits, deadline);
        self.wire.read(into, deadline)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        count(&self.waits_to_write, deadline);
        self.wire.write(head, body, deadline)
    }

    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        assert_eq!(start.len(), payload.len());
        assert_eq!(start.is_empty(), payload.is_empty());
        self.wire.carry(start, payload, sent, deadline)
    }

    fn window(&self) -> usize {
        self.window
    }
}

fn send_one(link: &mut StreamLink<Patient>, bytes: &[u8]) -> Result<Receipt, TransferError> {
    let mut memory = HostMemory::from(bytes.to_vec());
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, soon())
}

#[test]
fn a_send_waits_for_acknowledgements_only_where_its_window_is_full() {
    let (a, mut b) = pair(usize::MAX, true);
    let wire = Patient::new(a.wire, 2);
    let waits = wire.waits.clone();
    let mut a = StreamLink::fresh(wire, "patient".to_owned(), DEFAULT_LIMIT);
    send_one(&mut a, b"").expect("an empty window");
    send_one(&mut a, b"second").expect("room in the window");
    assert_eq!(waits.get(), 0, "it looked, and did not wait");
    assert!(matches!(
        send_one(&mut a, b"third"),
        Err(TransferError::Timeout)
    ));
    assert_eq!(waits.get(), 1, "it waited");
    assert!(a.is_open() && a.wants().read);
    // One is enough, and both are taken.
    assert_eq!(recv(&mut b).expect("sent"), b"");
    assert_eq!(recv(&mut b).expect("sent"), b"second");
    send_one(&mut a, b"third").expect("an empty window");
    assert_eq!(a.unacknowledged, [2]);
}

#[test]
fn a_receive_waits_to_say_something_only_where_too_much_is_unsaid() {
    let (mut a, b) = pair(usize::MAX, true);
    let wire = Patient::new(b.wire, 1);
    wire.wire.writing.borrow_mut().capacity = Some(0);
    let waits = wire.waits_to_write.clone();
    let mut b = StreamLink::fresh(wire, "patient".to_owned(), DEFAULT_LIMIT);
    let mut receive = |a: &mut Link| {
        a.unacknowledged.clear();
        send(a, b"again").expect("room");
        let received = b.recv(&mut HostMemory::new(), soon());
        (received.is_ok(), waits.take())
    };
    // What is there comes first; then it is acknowledged.
    for unsaid in 0..MOST_UNSAID / HEADER_LEN {
        assert_eq!(receive(&mut a), (true, 1), "{unsaid} unsaid");
    }
    assert_eq!(receive(&mut a), (false, 1), "nothing is received unsaid");
    assert_eq!(b.wants(), Wants::WRITE);
    assert!(!b.is_drained(), "there is more, which has to wait");
}

#[test]
fn a_receive_says_whether_it_took_all_there_was() {
    let (mut a, mut b) = pair(usize::MAX, false);
    let mut memory = HostMemory::new();
    assert!(!b.is_drained(), "nobody has looked");
    assert!(matches!(b.try_recv(&mut memory), Ok(None)));
    assert!(b.is_drained());
    send(&mut a, b"payload").expect("room");
    assert!(matches!(b.try_recv(&mut memory), Ok(Some(_))));
    assert!(!b.is_drained(), "there may be more");
}

#[test]
fn a_payload_that_was_announced_is_pending_until_it_is_received() {
    let (mut a, mut b) = pair(usize::MAX, false);
    assert!(!b.has_pending());
    assert!(
        !b.listen(Deadline::now()).expect("open"),
        "nothing was said"
    );
    send(&mut a, b"here").expect("room");
    assert!(!b.has_pending() && !b.has_body_ahead(), "nobody has looked");
    assert!(!b.listen(soon()).expect("open"), "a payload is no word");
    assert!(b.has_pending() && b.has_body_ahead());
    assert!(!b.listen(soon()).expect("open"), "the payload comes first");
    assert_eq!(recv(&mut b).expect("sent"), b"here");
    assert!(!b.has_pending() && !b.has_body_ahead());
    a.close(soon()).expect("open");
    assert!(!b.has_ended(), "nobody has looked");
    assert!(b.listen(soon()).expect("open"), "the end is a word");
    assert!(b.has_ended());
}

#[test]
fn payloads_are_numbered_from_0() {
    let (mut a, _b) = pair(usize::MAX, false);
    for number in 0..3 {
        let sent = a.send_by(5, soon(), |wire, start, sent, deadline| {
            assert_eq!((start.sequence(), start.len()), (number, 5));
            assert!(!start.is_empty());
            let carried = Carried {
                method: Method::Write,
                copies: 1,
                acknowledge: false,
            };
            let mut body = *b"12345";
            let header = start.header(carried);
            write_all(wire, &header, Span::from_slice(&mut body), sent, deadline)?;
            Ok(carried)
        });
        assert_eq!(sent.expect("room").bytes(), 5);
    }
}

#[test]
fn a_deadline_after_the_first_byte_that_other_means_sent_breaks_the_link() {
    for (bytes, open) in [(0, true), (1, false), (2, false)] {
        let (mut a, _b) = pair(usize::MAX, false);
        let late = a.send_by(5, soon(), |_wire, _start, sent, _deadline| {
            *sent = bytes;
            Err(TransferError::Timeout)
        });
        assert!(matches!(late, Err(TransferError::Timeout)));
        assert_eq!(a.is_open(), open, "after {bytes} bytes");
    }
}

#[test]
fn a_payload_of_which_nothing_was_sent_makes_room_for_another() {
    let (mut a, mut b) = pair(usize::MAX, false);
    a.wire.writing.borrow_mut().capacity = Some(0);
    assert!(matches!(send(&mut a, b"late"), Err(TransferError::Timeout)));
    assert!(a.is_open());
    a.wire.writing.borrow_mut().capacity = None;
    send(&mut a, b"another, which is longer").expect("room");
    assert_eq!(recv(&mut b).expect("sent"), b"another, which is longer");
}

#[test]
fn what_is_due_goes_before_the_next_payload() {
    let (mut a, _b) = pair(usize::MAX, false);
    let release = Header {
        kind: Kind::Release,
        sequence: 7,
        length: 0,
    };
    a.wire.due.extend(release.encode());
    send(&mut a, b"payload").expect("room");
    let said: Vec<u8> = a.wire.writing.borrow().bytes.iter().copied().collect();
    assert!(said.starts_with(&release.encode()), "{said:?}");
}

#[test]
fn an_end_does_not_wait_for_what_lies_behind_a_payload() {
    let (mut a, mut b) = pair(usize::MAX, true);
    send(&mut a, b"question").expect("room");
    send(&mut b, b"crossing").expect("room");
    assert_eq!(recv(&mut b).expect("sent"), b"question");
    // The acknowledgement is behind a payload that nobody receives here.
    a.close(soon()).expect("said");
    assert_eq!(recv(&mut a).expect("sent"), b"crossing");
}

#[test]
fn an_end_waits_to_write_only_where_it_has_something_to_say() {
    let (mut a, mut b) = pair(usize::MAX, true);
    let mut memory = HostMemory::new();
    assert!(matches!(b.try_recv(&mut memory), Ok(None)));
    assert!(b.wants().read && !b.wants().write, "{:?}", b.wants());
    send(&mut a, b"payload").expect("room");
    b.wire.writing.borrow_mut().capacity = Some(0);
    assert_eq!(recv(&mut b).expect("sent"), b"payload");
    // The acknowledgement.
    assert!(matches!(b.try_recv(&mut memory), Ok(None)));
    assert!(b.wants().read && b.wants().write, "{:?}", b.wants());
}

#[test]
fn an_end_that_did_what_it_was_to_do_waits_for_nothing() {
    let (mut a, mut b) = pair(usize::MAX, true);
    let (none, mut memory) = (Wants::default(), HostMemory::new());
    for _ in 0..2 {
        assert!(matches!(b.try_recv(&mut memory), Ok(None)));
        assert!(b.wants().read);
        let mut question = HostMemory::from([7; 100]);
        a.wire.writing.borrow_mut().capacity = Some(HEADER_LEN + 10);
        let mut try_send = |a: &mut Link| {
            let region = question.region();
            let payload = Payload::kept(&mut question, region).expect("inside");
            a.try_send(payload).expect("open").is_some()
        };
        assert!(!try_send(&mut a) && a.wants() == Wants::WRITE);
        a.wire.writing.borrow_mut().capacity = None;
        assert!(try_send(&mut a) && a.wants() == none, "{:?}", a.wants());
        assert!(matches!(b.try_recv(&mut memory), Ok(Some(_))));
        assert_eq!(b.wants(), none);
        // The acknowledgement.
        assert!(a.listen(soon()).expect("open") && a.wants() == none);
    }
    assert!(matches!(a.try_recv(&mut memory), Ok(None)));
    assert!(a.wants().read);
    assert!(a.try_close().expect("open") && a.wants() == none);
}

/// Gives and takes a byte whenever it is asked, the first when the deadline has passed.
struct Trickle(u64);

impl Wire for Trickle {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        self.0 += 1;
        Ok(into.copy_from_slice(&[7]))
    }

    fn write(&mut self, _: &[u8], _: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.read(Span::from_slice(&mut [0]), deadline)
    }
}

#[test]
fn a_peer_that_always_has_a_little_more_does_not_put_a_deadline_off() {
    let mut bytes = vec![0; 1 << 20];
    let all = bytes.len() as u64;
    let body = Span::from_slice(&mut bytes);
    let briefly = || Deadline::after(Duration::from_millis(1));
    let (mut read, mut written) = (0, 0);
    let received = read_all(&mut Trickle(0), body, 0, &mut read, briefly());
    let sent = write_all(&mut Trickle(0), &[], body, &mut written, briefly());
    assert!(matches!(received, Err(TransferError::Timeout)), "{read}");
    assert!(matches!(sent, Err(TransferError::Timeout)), "{written}");
    assert_eq!((read, written), (1, 1));
    // What needs no waiting is done however late it is, so that nobody has to be told again that it is there.
    let mut wire = Trickle(0);
    read_all(&mut wire, body, 0, &mut read, Deadline::now()).expect("there");
    write_all(&mut wire, &[], body, &mut written, Deadline::now()).expect("room");
    assert_eq!(wire.0, 2 * all - 2);
}

/// The deadline of an operation that began in time and is over.
fn of_what_is_over() -> Deadline {
    // A machine that does something else meanwhile may begin late.
    let began = (0..100).find_map(|_| {
        let deadline = Deadline::after(Duration::from_millis(1)).begin();
        (deadline != Deadline::now()).then_some(deadline)
    });
    let deadline = began.expect("it begins in time");
    while !deadline.has_passed() {
        std::thread::yield_now();
    }
    deadline
}

#[test]
fn a_part_of_an_operation_that_is_over_does_not_go_on_because_it_need_not_wait() {
    const LEN: u64 = 1 << 20;
    let mut link = StreamLink::fresh(Trickle(0), "part".to_owned(), DEFAULT_LIMIT);
    let mut memory = HostMemory::from(vec![0; LEN as usize]);
    let region = memory.region();
    let payload = Payload::kept(&mut memory, region).expect("inside");
    let sent = link.try_send_until(payload, of_what_is_over());
    assert!(matches!(sent, Ok(None)), "{sent:?}");
    assert_eq!(link.wire.0, 1, "a step");
    let payload = Payload::kept(&mut memory, region).expect("inside");
    let sent = link.try_send(payload);
    assert!(matches!(sent, Ok(Some(_))), "{sent:?}");

    let carried = Carried {
        method: Method::Write,
        copies: 1,
        acknowledge: false,
    };
    let kind = Kind::Data {
        method: carried.method,
        copies: carried.copies,
        acknowledge: carried.acknowledge,
    };
    let header = Header {
        kind,
        sequence: 0,
        length: LEN,
    };
    link.incoming.data = Some((header, carried));
    link.wire.0 = 0;
    let received = link.try_recv_until(&mut memory, of_what_is_over());
    assert!(matches!(received, Ok(None)), "{received:?}");
    assert_eq!(link.wire.0, 1, "a step");
    let received = link.try_recv(&mut memory);
    assert!(matches!(received, Ok(Some(_))), "{received:?}");
}

#[test]
fn what_goes_by_other_means_is_told_whether_it_began_in_time() {
    let (mut a, _b) = pair(usize::MAX, false);
    for (deadline, is_over) in [
        (of_what_is_over(), true),
        (Deadline::at(std::time::Instant::now()), false),
    ] {
        let late = a.send_by(5, deadline, |_wire, _start, _sent, deadline| {
            assert_eq!((deadline.has_passed(), deadline.is_over()), (true, is_over));
            Err(TransferError::Timeout)
        });
        assert!(matches!(late, Err(TransferError::Timeout)));
    }
}

/// Gives and takes all that it is asked for, when the deadline has passed.
struct Late;

impl Wire for Late {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        Ok(into.len())
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.read(body, deadline).map(|count| head.len() + count)
    }
}

#[test]
fn what_is_whole_at_its_deadline_is_done() {
    let mut bytes = vec![0; 1 << 20];
    let body = Span::from_slice(&mut bytes);
    let briefly = || Deadline::after(Duration::from_millis(1));
    let (mut read, mut written) = (0, 0);
    read_all(&mut Late, body, 0, &mut read, briefly()).expect("all of it came");
    write_all(&mut Late, b"head", body, &mut written, briefly()).expect("all of it went");
    assert_eq!((read, written), (1 << 20, 4 + (1 << 20)));
}

#[test]
fn a_frame_that_is_cut_says_how_much_of_it_came() {
    let (a, mut b) = pair(usize::MAX, false);
    a.wire.writing.borrow_mut().bytes.extend(b"345");
    drop(a);
    let (mut bytes, mut got) = ([0; 7], 0);
    let cut = read_all(
        &mut b.wire,
        Span::from_slice(&mut bytes),
        2,
        &mut got,
        soon(),
    );
    assert!(
        matches!(
            cut,
            Err(TransferError::Truncated {
                got: 5,
                expected: 9
            })
        ),
        "{cut:?}"
    );
    let (mut bytes, mut got) = ([0; 7], 0);
    let closed = read_all(
        &mut b.wire,
        Span::from_slice(&mut bytes),
        0,
        &mut got,
        soon(),
    );
    assert!(
        matches!(closed, Err(TransferError::PeerClosed)),
        "{closed:?}"
    );
}

/// What is said to it comes when the deadline has passed; from then on it gives and takes a byte whenever it is asked.
struct JustInTime {
    words: Vec<u8>,
    then: Trickle,
    /// The operation began in time.
    began: Rc<Cell<bool>>,
}

impl Wire for JustInTime {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        if self.words.is_empty() {
            return self.then.read(into, deadline);
        }
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        self.began.set(deadline.is_over());
        Ok(into.copy_from_slice(&std::mem::take(&mut self.words)))
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.then.write(head, body, deadline)
    }
}

#[test]
fn what_an_operation_waits_for_until_its_deadline_does_not_put_that_off() {
    const LEN: u64 = 1 << 20;
    let method = Method::Write;
    let payload = Kind::Data {
        method,
        copies: 1,
        acknowledge: false,
    };
    for (kind, length) in [(payload, LEN), (Kind::Acknowledgement, 0)] {
        // A machine that does something else meanwhile may begin late.
        let late = (0..100).find_map(|_| {
            let header = Header {
                kind,
                sequence: 0,
                length,
            };
            let began = Rc::<Cell<bool>>::default();
            let wire = JustInTime {
                words: header.encode().to_vec(),
                then: Trickle(0),
                began: began.clone(),
            };
            let mut link = StreamLink::fresh(wire, "late".to_owned(), DEFAULT_LIMIT);
            let mut memory = HostMemory::from(vec![0; LEN as usize]);
            let region = memory.region();
            let deadline = Deadline::after(Duration::from_millis(10));
            let done = if length > 0 {
                link.recv(&mut memory, deadline).map(drop)
            } else {
                // There is no room for another one.
                link.unacknowledged.push_back(0);
                let payload = Payload::kept(&mut memory, region).expect("inside");
                link.send(payload, deadline).map(drop)
            };
            began
                .get()
                .then_some((done, link.wire.then.0, link.is_open()))
        });
        let (done, steps, is_open) = late.expect("it begins in time");
        assert!(matches!(done, Err(TransferError::Timeout)), "{done:?}");
        assert_eq!((steps, is_open), (1, false));
    }
}
