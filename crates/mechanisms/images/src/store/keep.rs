//! What is kept: listing, removing, collecting.

use super::ImageStore;
use crate::{
    error::{ImageError, file},
    manifest::Manifest,
    progress::Progress,
};
use omnirun_ids::{Digest, TemplateName};
use omnirun_store::StoreError;
use std::{collections::BTreeSet, fs};

/// A template that has an image.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: TemplateName,
    /// What it was made of, or why that cannot be read.
    pub manifest: Result<Manifest, ImageError>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names and sizes of files.
    pub files: Vec<(String, u64)>,
}

impl Removed {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl ImageStore {
    /// All templates that have an image, by name. A damaged one is an error of its own.
    ///
    /// # Errors
    /// [`ImageError::File`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let folder = self.folder.join("templates");
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder).map_err(file("list", &folder))? {
            let entry = entry.map_err(file("list", &folder))?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if let Some(Ok(name)) = file_name.strip_suffix(".json").map(str::parse::<TemplateName>) {
                let manifest = self.manifest(&name);
                all.push(Listed { name, manifest });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a template's manifest; its files go with the next [`Self::gc`]. `users` is how many sessions are bound
    /// to its base.
    ///
    /// # Errors
    /// [`ImageError::InUse`] if there are any and `force` is not given; [`ImageError::NoImage`].
    pub fn remove(&self, name: &TemplateName, users: usize, force: bool) -> Result<(), ImageError> {
        if users > 0 && !force {
            return Err(ImageError::InUse {
                template: name.clone(),
                users,
            });
        }
        let path = self.manifest_path(name);
        fs::remove_file(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => ImageError::NoImage {
                template: name.clone(),
            },
            _ => file("remove", &path)(e),
        })?;
        omnirun_store::sync_dir(&self.folder.join("templates"))?;
        Ok(())
    }

    /// Removes every file that no template names and no session is bound to. Waits for a running build. `bound` tells
    /// the digests of the bases of all session disks; it is asked when nothing is waited for any more, since a session
    /// may begin meanwhile and the build replace the image that it began with.
    ///
    /// # Errors
    /// [`ImageError::File`], or what `bound` says; also if a manifest cannot be read, since what it names is not known then.
    pub async fn gc(
        &self,
        bound: impl FnOnce() -> Result<Vec<Digest>, StoreError>,
        progress: &dyn Progress,
    ) -> Result<Removed, ImageError> {
        let _build = self.build_lock(progress).await?;
        let _publish = self.publish_lock()?;
        let mut keep: BTreeSet<Digest> = bound()?.into_iter().collect();
        for Listed { manifest, .. } in self.list()? {
            keep.extend(manifest?.blobs().into_iter().map(|(_, blob)| blob.digest.clone()));
        }
        Ok(Removed {
            files: self.blobs.retain(&keep)?,
        })
    }
}
