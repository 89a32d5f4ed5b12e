//! What can go wrong between this program and the manager, by name.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

/// Why a job's result is not known, or why there is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no bus, or no manager on it.
    NoBus(String),
    /// The bus closed the connection.
    Closed,
    /// The manager was replaced (`systemctl daemon-reexec`): no signal reports its jobs any more.
    Reexecuted,
    /// The job did not end in this time; it goes on.
    NotInTime(Duration),
    /// A call was not answered in time.
    NoAnswer(String),
    /// The manager refused: name and text of the D-Bus error.
    Refused {
        /// Such as `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// The manager's words.
        message: String,
    },
    /// An answer that is not as the manual says.
    Protocol(String),
}

impl Error {
    /// Translates an error of zbus in the call of `method`.
    pub(super) fn of(error: &zbus::Error, method: &str) -> Error {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                let message = message.clone().unwrap_or_default();
                match name.as_str() {
                    // These come from the bus itself: the peer that was asked is gone.
                    "org.freedesktop.DBus.Error.NoReply"
                    | "org.freedesktop.DBus.Error.Disconnected" => Error::Reexecuted,
                    "org.freedesktop.DBus.Error.ServiceUnknown"
                    | "org.freedesktop.DBus.Error.NameHasNoOwner" => Error::NoBus(message),
                    name => Error::Refused { name: name.to_owned(), message },
                }
            }
            zbus::Error::InputOutput(io) if io.kind() == ErrorKind::TimedOut => {
                Error::NoAnswer(method.to_owned())
            }
            zbus::Error::InputOutput(_) => Error::Closed,
            other => Error::Protocol(format!("{method}: {other}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoBus(why) => write!(f, "systemd cannot be asked over D-Bus: {why}"),
            Error::Closed => f.write_str("the connection to D-Bus was closed"),
            Error::Reexecuted => f.write_str(
                "systemd was executed anew meanwhile (daemon-reexec): the result is not known",
            ),
            Error::NotInTime(limit) => write!(
                f,
                "not done after {} s; it goes on (systemctl list-jobs). When it has ended: \
                 zfs-prefix load --import",
                limit.as_secs()
            ),
            Error::NoAnswer(method) => write!(f, "systemd did not answer {method}()"),
            Error::Refused { message, .. } => f.write_str(message),
            Error::Protocol(what) => write!(f, "unexpected answer of systemd: {what}"),
        }
    }
}

impl std::error::Error for Error {}
