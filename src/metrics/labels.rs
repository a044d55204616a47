//! The labels that series are told apart by, each with all its values. No name of a service, an instance or a namespace
//! is among them: how many series there are depends on the program alone, never on what is registered.

use std::fmt::Debug;

use crate::registry::Cause;

/// One label.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All its values.
    pub values: &'static [&'static str],
}

/// What a label's value is taken from.
pub trait Key: Copy + Debug {
    /// The label with all its values, in the order of `place`.
    const LABEL: Label;

    /// Which of the values it is.
    fn place(self) -> usize;
}

/// A combination of them.
pub trait Keys {
    /// The labels, in order.
    const LABELS: &'static [Label];

    /// Where its series is: the last label turns fastest.
    fn place(self) -> usize;
}

macro_rules! keys {
    ($($label:ident),+) => {
        impl<$($label: Key),+> Keys for ($($label,)+) {
            const LABELS: &'static [Label] = &[$($label::LABEL),+];

            fn place(self) -> usize {
                #[allow(non_snake_case)]
                let ($($label,)+) = self;
                let place = 0;
                $(let place = place * $label::LABEL.values.len() + $label.place();)+
                place
            }
        }
    };
}

keys!(A);
keys!(A, B);
keys!(A, B, C);

/// An enum whose variants are a label's values.
macro_rules! label {
    ($(#[doc = $about:literal])+ $name:ident as $label:literal { $($(#[doc = $doc:literal])+ $variant:ident = $value:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }

        impl Key for $name {
            const LABEL: Label = Label { name: $label, values: &[$($value),+] };

            fn place(self) -> usize {
                self as usize
            }
        }
    };
}

impl Bounded {
    /// The quota of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let place = Self::LABEL.values.iter().position(|value| *value == name)?;
        Self::ALL.get(place).copied()
    }
}

mod api;

pub use api::{HttpStatus, Limit, Rpc};

label! {
    /// By which way a call came.
    Front as "front" {
        /// gRPC.
        Grpc = "grpc",
        /// gRPC-Web.
        GrpcWeb = "grpc_web",
        /// JSON over HTTP.
        Http = "http",
        /// A stream of server-sent events.
        Sse = "sse",
    }
}

label! {
    /// What a quota bounds.
    Bounded as "quota" {
        /// Instances.
        Instances = "instances",
        /// Watches at once.
        Watches = "watches",
        /// Bytes of what instances say of themselves.
        Bytes = "bytes",
        /// Writes a second.
        Writes = "writes_per_second",
    }
}

label! {
    /// Whose a quota is.
    QuotaOf as "of" {
        /// A namespace's.
        Namespace = "namespace",
        /// A principal's.
        Principal = "principal",
    }
}

label! {
    /// What became of a beat.
    BeatState as "state" {
        /// Its lease goes on.
        Renewed = "RENEWED",
        /// The key is free.
        Expired = "EXPIRED",
        /// No token of this registry.
        Unknown = "UNKNOWN",
        /// A newer incarnation holds the key.
        Superseded = "SUPERSEDED",
        /// A wrong secret.
        Denied = "DENIED",
        /// Its change could not be stored.
        TryAgain = "TRY_AGAIN",
    }
}

label! {
    /// What happened to an instance.
    Happened as "cause" {
        /// It came.
        Registered = "REGISTERED",
        /// It changed.
        Updated = "UPDATED",
        /// A new incarnation took its key.
        Replaced = "REPLACED",
        /// Its registrant took it away.
        Deregistered = "DEREGISTERED",
        /// No heartbeat came within its TTL.
        Expired = "EXPIRED",
        /// Another service took its url.
        Moved = "MOVED",
        /// An operator removed it.
        Operator = "OPERATOR",
        /// A quota was lowered.
        Quota = "QUOTA",
    }
}

impl From<Cause> for Happened {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Registered => Self::Registered,
            Cause::Replaced => Self::Replaced,
            Cause::Deregistered => Self::Deregistered,
            Cause::Expired => Self::Expired,
            Cause::Moved => Self::Moved,
            Cause::Operator => Self::Operator,
            Cause::Quota => Self::Quota,
            // No cause is given for a change; the others are of one watch's view.
            Cause::Unspecified
            | Cause::Snapshot
            | Cause::Matched
            | Cause::Filtered
            | Cause::Switched
            | Cause::Draining
            | Cause::Maintenance => Self::Updated,
        }
    }
}

label! {
    /// Why a watch began anew.
    Reset as "reason" {
        /// No longer in the kept log.
        TooOld = "TOO_OLD",
        /// Of a stretch of history that this registry does not continue.
        AnotherEpoch = "ANOTHER_EPOCH",
        /// Of another registry.
        AnotherRegistry = "ANOTHER_REGISTRY",
        /// Made for other selectors.
        SelectorsChanged = "SELECTORS_CHANGED",
        /// Slower than the kept log.
        FellBehind = "FELL_BEHIND",
        /// Not a token.
        Malformed = "MALFORMED",
    }
}

label! {
    /// How a watch stood when a drain was answered.
    Drain as "standing" {
        /// Acknowledged.
        Acked = "acked",
        /// Written, to who acknowledges nothing.
        Sent = "sent",
        /// Still waited for.
        Pending = "pending",
        /// Reset.
        Lagging = "lagging",
    }
}

label! {
    /// What became of a TLS handshake.
    Handshake as "result" {
        /// It is done.
        Done = "done",
        /// One side refused the other.
        Failed = "failed",
        /// It was not done in time.
        TimedOut = "timed_out",
        /// Too many were under way, and it was the oldest.
        PushedOut = "pushed_out",
        /// What came was not TLS.
        NotTls = "not_tls",
    }
}

label! {
    /// What became of reading certificates again.
    Reload as "result" {
        /// The new ones are in force.
        Done = "done",
        /// Something is wrong with them, and the old ones are in force.
        Refused = "refused",
    }
}

label! {
    /// Whose certificate it is.
    Certificate as "of" {
        /// The server's own.
        Server = "server",
        /// The authority of its clients.
        Clients = "clients",
    }
}

label! {
    /// A lane of the registry's task.
    Lane as "lane" {
        /// Commands, and starts of watches.
        Commands = "commands",
        /// Beats, and the lease clock's marks.
        Beats = "beats",
    }
}

label! {
    /// What a connection speaks.
    Protocol as "protocol" {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_has_a_place_of_its_own() {
        type Three = (Front, BeatState, Lane);
        let mut seen = [false; 4 * 6 * 2];
        for front in Front::ALL {
            for state in BeatState::ALL {
                for lane in Lane::ALL {
                    let place = Three::place((*front, *state, *lane));
                    assert!(!std::mem::replace(&mut seen[place], true));
                }
            }
        }
        assert!(!seen.contains(&false));
    }
}
