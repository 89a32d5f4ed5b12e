//! The manager's signals, and the end of the manager, in the order in which they come.

use std::sync::mpsc::{Receiver, Sender, channel};

use zbus::blocking::{Connection, MessageIterator};
use zbus::names::OwnedUniqueName;
use zbus::zvariant::OwnedObjectPath;
use zbus::{MatchRule, Message};

use super::{Error, MANAGER, PATH, SYSTEMD};

const BUS: &str = "org.freedesktop.DBus";

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// JobRemoved()
    Removed { job: OwnedObjectPath, result: String },
    /// Nothing will happen any more.
    Over(Error),
}

/// Listens in threads until the connection is closed: zbus has no wait with a limit.
pub(super) fn listen(connection: &Connection) -> Result<Receiver<Event>, Error> {
    let (sender, events) = channel();
    let no_bus = |e: zbus::Error| Error::of(&e, "AddMatch");
    let replaced = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(BUS)
        .and_then(|rule| rule.interface(BUS))
        .and_then(|rule| rule.member("NameOwnerChanged"))
        .and_then(|rule| rule.arg(0, SYSTEMD))
        .map_err(no_bus)?
        .build();
    let removed = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(SYSTEMD)
        .and_then(|rule| rule.path(PATH))
        .and_then(|rule| rule.interface(MANAGER))
        .and_then(|rule| rule.member("JobRemoved"))
        .map_err(no_bus)?
        .build();
    // In this order, the owner cannot change unnoticed.
    let replaced = MessageIterator::for_match_rule(replaced, connection, None).map_err(no_bus)?;
    let owner = owner(connection)?;
    let removed = MessageIterator::for_match_rule(removed, connection, None).map_err(no_bus)?;
    follow(replaced, sender.clone(), |message| {
        // To the rule, BUS is a name like any other: anybody may send us a signal of that name.
        let from_bus = message.header().sender().is_some_and(|sender| sender.as_str() == BUS);
        from_bus.then_some(Event::Over(Error::Reexecuted))
    });
    follow(removed, sender, move |message| {
        let from_manager = message.header().sender().is_some_and(|sender| *sender == *owner);
        let (_, job, _, result): (u32, OwnedObjectPath, String, String) =
            message.body().deserialize().ok().filter(|_| from_manager)?;
        Some(Event::Removed { job, result })
    });
    Ok(events)
}

fn owner(connection: &Connection) -> Result<OwnedUniqueName, Error> {
    connection
        .call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "GetNameOwner", &SYSTEMD)
        .and_then(|reply| reply.body().deserialize())
        .map_err(|e| Error::of(&e, "GetNameOwner"))
}

fn follow(
    messages: MessageIterator,
    events: Sender<Event>,
    read: impl Fn(&Message) -> Option<Event> + Send + 'static,
) {
    std::thread::spawn(move || {
        for message in messages {
            let Ok(message) = message else { break };
            if let Some(event) = read(&message)
                && events.send(event).is_err()
            {
                return;
            }
        }
        // Nobody listening any more is fine.
        let _ = events.send(Event::Over(Error::Closed));
    });
}
