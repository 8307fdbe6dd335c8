//! What a pipe sends, hands back and sends again.

use super::*;

fn pipe(requests: &[(&'static str, Repeat)]) -> Pipe<&'static str> {
    let mut pipe = Pipe::default();
    requests
        .iter()
        .for_each(|&(request, repeat)| send(&mut pipe, request, repeat));
    pipe
}

fn send(pipe: &mut Pipe<&'static str>, request: &'static str, repeat: Repeat) {
    let slot = u16::from(request.as_bytes()[request.len() - 1] - b'0');
    pipe.send(request, repeat, Instant::now(), slot, |out| {
        out.extend_from_slice(request.as_bytes())
    });
}

fn texts(requests: Vec<Unsent<&'static str>>) -> Vec<String> {
    requests
        .into_iter()
        .map(|request| String::from_utf8(request.bytes).unwrap())
        .collect()
}

#[test]
fn a_write_that_may_have_been_executed_is_not_sent_again() {
    let mut pipe = pipe(&[
        ("get-1", Repeat::Safe),
        ("set-2", Repeat::Unsafe),
        ("set-3", Repeat::Unsafe),
        ("set-4", Repeat::Unsafe),
    ]);
    pipe.wrote("get-1set-2se".len());
    let Lost { again, doubtful } = pipe.lost();
    assert_eq!(doubtful.iter().map(|request| request.to).collect::<Vec<_>>(), ["set-2"]);
    assert_eq!(texts(again), ["get-1", "set-3", "set-4"]);
    assert!(pipe.is_empty());
}

#[test]
fn what_was_refused_goes_first_on_the_next_connection() {
    let mut pipe = pipe(&[("set-1", Repeat::Unsafe), ("set-2", Repeat::Unsafe)]);
    pipe.wrote(10);
    send(&mut pipe, "set-3", Repeat::Unsafe);
    assert!(pipe.refused());
    assert_eq!(pipe.unsent(), b"", "nothing is sent past a refused request");
    assert!(!pipe.wants_another_connection(), "set-2 may still be answered");
    assert_eq!(pipe.answered().unwrap().to, "set-2");
    assert!(pipe.wants_another_connection());
    let Lost { again, doubtful } = pipe.lost();
    assert!(doubtful.is_empty());
    assert_eq!(texts(again), ["set-1", "set-3"]);
}

#[test]
fn what_was_sent_in_part_when_another_was_refused_holds_up_no_new_connection() {
    let mut pipe = pipe(&[("set-1", Repeat::Unsafe), ("set-2", Repeat::Unsafe)]);
    pipe.wrote("set-1se".len());
    assert!(pipe.refused());
    assert!(pipe.unsent().is_empty() && pipe.wants_another_connection());
    let Lost { again, doubtful } = pipe.lost();
    assert!(doubtful.is_empty());
    assert_eq!(texts(again), ["set-1", "set-2"]);
}

#[test]
fn a_reply_to_nothing_is_noticed() {
    let mut pipe = pipe(&[("get-1", Repeat::Safe)]);
    assert!(pipe.answered().is_none(), "it was not sent yet");
    assert!(!pipe.refused());
}

#[test]
fn bytes_go_when_their_replies_are_here() {
    let mut pipe = pipe(&[("get-1", Repeat::Safe), ("get-2", Repeat::Safe)]);
    pipe.wrote(10);
    pipe.answered();
    pipe.answered();
    assert_eq!((pipe.buffered(), pipe.len()), (0, 0));
}

#[test]
fn what_was_not_sent_can_be_recalled_and_the_rest_goes_on() {
    let mut pipe = pipe(&[
        ("set-1", Repeat::Unsafe),
        ("set-2", Repeat::Unsafe),
        ("set-1", Repeat::Unsafe),
        ("set-3", Repeat::Unsafe),
        ("set-2", Repeat::Unsafe),
    ]);
    pipe.wrote(7); // half of the second
    let recalled = pipe.recall(|request| request.slot != 3);
    assert_eq!(texts(recalled), ["set-1", "set-2"]);
    assert_eq!(pipe.unsent(), b"t-2set-3");
    pipe.wrote(8);
    for expected in ["set-1", "set-2", "set-3"] {
        assert_eq!(pipe.answered().unwrap().to, expected);
    }
    assert!(pipe.is_empty());
}

fn waiting(name: &'static str) -> Unsent<&'static str> {
    Unsent {
        to: name,
        repeat: Repeat::Safe,
        since: Instant::now(),
        slot: 1,
        waits: true,
        bytes: format!("{name}WAIT").into_bytes(),
    }
}

#[test]
fn a_request_with_a_wait_has_its_reply_when_both_are_here_and_goes_again_with_it() {
    let mut pipe = Pipe::default();
    pipe.send_again(waiting("push"));
    pipe.wrote(8);
    assert!(pipe.front().unwrap().is_first_of_two());
    pipe.half_answered("id".into());
    assert!(pipe.front().unwrap().is_second_of_two());
    assert_eq!(
        texts(pipe.lost().again),
        ["pushWAIT"],
        "whether it was replicated is not known"
    );
    pipe.send_again(waiting("push"));
    pipe.wrote(8);
    pipe.half_answered("id".into());
    assert_eq!(pipe.answered().unwrap().own_reply().unwrap(), "id");
    assert!(pipe.is_empty() && !pipe.takes_surplus());
}

#[test]
fn the_reply_to_the_wait_of_a_request_that_was_not_executed_is_nobodys() {
    let mut pipe = Pipe::default();
    pipe.send_again(waiting("push"));
    pipe.send_again(waiting("post"));
    pipe.wrote(16);
    assert!(pipe.turned_away().unwrap().waits);
    assert!(pipe.takes_surplus());
    assert!(!pipe.takes_surplus());
    assert!(pipe.refused());
    assert!(pipe.is_owed() && !pipe.wants_another_connection(), "a reply is due");
    assert!(pipe.takes_surplus() && !pipe.is_owed());
    assert!(pipe.wants_another_connection());
}

#[test]
fn asking_goes_before_its_request_alone_and_its_reply_is_nobodys() {
    let mut pipe = pipe(&[("set-1", Repeat::Unsafe)]);
    pipe.wrote(5);
    let turned_away = pipe.turned_away().unwrap();
    let mut other = Pipe::default();
    other.send_asking(turned_away);
    assert_eq!(other.unsent(), b"*1\r\n$6\r\nASKING\r\nset-1");
    other.wrote(other.unsent().len());
    assert!(other.takes_asking());
    assert!(!other.takes_asking());
    let again = other.turned_away().unwrap();
    assert_eq!(again.bytes, b"set-1", "elsewhere it asks for itself");
}
