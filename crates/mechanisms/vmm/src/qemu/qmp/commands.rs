//! The commands that the driver uses. Names and fields as in QEMU's QMP reference manual.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A command with its answer.
pub(in crate::qemu) trait Command: Serialize {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What it answers.
    type Return: DeserializeOwned;
}

/// An answer without content.
#[derive(Debug, Deserialize)]
pub(in crate::qemu) struct Empty {}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $wire:literal -> $ret:ty { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub(in crate::qemu) struct $name {
            $(pub(in crate::qemu) $field: $ty,)*
        }
        impl Command for $name {
            const NAME: &'static str = $wire;
            type Return = $ret;
        }
    )*};
}

commands! {
    /// Leaves the greeting behind.
    Capabilities = "qmp_capabilities" -> Empty {}
    /// Stops the virtual CPUs.
    Stop = "stop" -> Empty {}
    /// Lets them run.
    Cont = "cont" -> Empty {}
    /// Sets what the next migration does.
    SetCapabilities = "migrate-set-capabilities" -> Empty { capabilities: [Capability; 2] }
    /// Bandwidth in bytes a second, and the longest stop in milliseconds.
    SetParameters = "migrate-set-parameters" -> Empty { max_bandwidth: u64, downtime_limit: u64 }
    /// Loads a machine's state.
    MigrateIncoming = "migrate-incoming" -> Empty { uri: String }
    /// Writes a machine's state.
    Migrate = "migrate" -> Empty { uri: String }
    /// Takes the descriptor that comes along, under a name.
    GetFd = "getfd" -> Empty { fdname: &'static str }
    /// Takes the descriptor that comes along into a set, to be opened as `/dev/fdset/N`.
    AddFd = "add-fd" -> serde_json::Value { fdset_id: u32 }
    /// Changes what a filter stands on.
    BlockdevReopen = "blockdev-reopen" -> Empty { options: [serde_json::Value; 1] }
    /// Makes a device see its image's size.
    BlockResize = "block_resize" -> Empty { node_name: &'static str, size: u64 }
}

/// A migration capability, switched.
#[derive(Debug, Serialize)]
pub(in crate::qemu) struct Capability {
    capability: &'static str,
    state: bool,
}

/// Events tell of a migration's progress; memory that is a shared file is left out of the stream.
pub(in crate::qemu) const MIGRATION_CAPABILITIES: [Capability; 2] = [
    Capability {
        capability: "events",
        state: true,
    },
    Capability {
        capability: "x-ignore-shared",
        state: true,
    },
];

/// Adds a node to the block graph; the fields depend on its driver.
#[derive(Debug, Serialize)]
pub(in crate::qemu) struct BlockdevAdd(pub(in crate::qemu) serde_json::Value);

impl Command for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Return = Empty;
}
