//! What the host's namespace has of an owner is found again by a name that says which owner of which data folder it is.

use omnirun_netns::NetError;
use omnirun_store::{DataDir, OwnerId, StoreError, living_owners};
use sha2::{Digest, Sha256};
use std::{collections::HashSet, os::unix::ffi::OsStrExt};

/// The part of the name that all owners of a data folder share.
fn folder_tag(data: &DataDir) -> String {
    let digest = Sha256::digest(data.root().as_os_str().as_bytes());
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An owner's name.
pub(crate) fn tag(data: &DataDir, owner: &OwnerId) -> String {
    format!("{}_{owner}", folder_tag(data))
}

/// Removes what dead owners of this data folder left in the host's namespace; says what. Where there can be no networks
/// there is nothing.
///
/// # Errors
/// The data folder cannot be read.
pub async fn sweep(data: &DataDir) -> Result<Vec<String>, StoreError> {
    let living: HashSet<String> = living_owners(data)?
        .into_iter()
        .map(|(id, _)| tag(data, &id))
        .collect();
    let ours = format!("{}_", folder_tag(data));
    // Other folders' owners are theirs to look after.
    let alive = move |tag: &str| !tag.starts_with(&ours) || living.contains(tag);
    match omnirun_netns::sweep(None, alive).await {
        Ok(tags) => Ok(tags
            .into_iter()
            .map(|tag| format!("the host's rules for sandboxes of {tag}"))
            .collect()),
        Err(NetError::NotPermitted { .. } | NetError::NoNft) => Ok(Vec::new()),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what dead owners left of networks stays"
            );
            Ok(Vec::new())
        }
    }
}
