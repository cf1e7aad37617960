//! Recipes: small TOML files that say what a template is.

use crate::{Template, error::ImageError};
use omnirun_ids::{Digest, TemplateName};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Recipes that come with the program.
const SHIPPED: [(&str, &str); 1] = [("default", include_str!("../../../../templates/default.toml"))];

/// A recipe longer than this is not one.
const MAX_BYTES: u64 = 1 << 20;

/// What a template is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Debian packages beside the essential ones; sorted, each once.
    pub packages: Vec<String>,
    /// What it says about the processes in a sandbox; has the name.
    pub template: Template,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    #[serde(default)]
    packages: BTreeSet<String>,
    #[serde(default = "root")]
    user: String,
    #[serde(default = "workspace")]
    workdir: String,
    #[serde(default)]
    keep_capabilities: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

fn root() -> String {
    "root".to_owned()
}

fn workspace() -> String {
    "/workspace".to_owned()
}

impl Recipe {
    /// Reads a recipe; `path` names it in errors.
    ///
    /// # Errors
    /// [`ImageError::Recipe`] with the first thing that is wrong.
    pub fn parse(name: TemplateName, text: &str, path: &Path) -> Result<Self, ImageError> {
        let wrong = |reason: String| ImageError::Recipe {
            path: path.to_owned(),
            reason,
        };
        let file: RecipeFile =
            toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        if let Some(bad) = file.packages.iter().find(|p| !is_package(p)) {
            return Err(wrong(format!("{bad:?} is not the name of a Debian package")));
        }
        if !is_user(&file.user) {
            return Err(wrong(format!("{:?} is not a user name", file.user)));
        }
        if !is_clean_path(&file.workdir) {
            return Err(wrong(format!(
                "workdir must be an absolute path without '.', '..' and control characters, not {:?}",
                file.workdir
            )));
        }
        for (key, value) in &file.env {
            if !is_env_name(key) {
                return Err(wrong(format!(
                    "{key:?} is not the name of an environment variable"
                )));
            }
            if value.chars().any(|c| c == '\0' || c == '\n') {
                return Err(wrong(format!(
                    "the value of {key} has a line break or a NUL in it"
                )));
            }
        }
        Ok(Self {
            packages: file.packages.into_iter().collect(),
            template: Template {
                name,
                user: file.user,
                env: file.env,
                workdir: file.workdir,
                keep_capabilities: file.keep_capabilities,
            },
        })
    }

    /// Finds a recipe by what a user typed: a path (with a slash or ending in `.toml`), or a name, which is looked for
    /// in `folder`, then among the shipped ones.
    ///
    /// # Errors
    /// [`ImageError::UnknownTemplate`], [`ImageError::Recipe`], [`ImageError::File`].
    pub fn find(given: &str, folder: &Path) -> Result<Self, ImageError> {
        if given.contains('/') || given.ends_with(".toml") {
            let path = Path::new(given);
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = stem.parse().map_err(|e| ImageError::Recipe {
                path: path.to_owned(),
                reason: format!("the file's name is the template's name, and {e}"),
            })?;
            return Self::parse(name, &read(path)?, path);
        }
        let name: TemplateName = given.parse().map_err(|e| ImageError::Recipe {
            path: PathBuf::from(given),
            reason: format!("{e}"),
        })?;
        let path = folder.join(format!("{name}.toml"));
        match read(&path) {
            Err(ImageError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            text => return Self::parse(name, &text?, &path),
        }
        match SHIPPED.iter().find(|(shipped, _)| *shipped == name.as_str()) {
            Some((_, text)) => Self::parse(name, text, Path::new("the shipped one")),
            None => Err(ImageError::UnknownTemplate {
                name,
                known: known(folder).join(", "),
                folder: folder.to_owned(),
            }),
        }
    }

    /// Digest of all that it says.
    pub fn digest(&self) -> Digest {
        let facts = serde_json::json!({ "packages": self.packages, "template": self.template });
        Digest::from(<[u8; 32]>::from(Sha256::digest(facts.to_string().as_bytes())))
    }

    /// Digest of what the base disk depends on: an environment variable more needs no new one.
    pub fn base_digest(&self) -> Digest {
        let t = &self.template;
        let facts = serde_json::json!({ "packages": self.packages, "user": t.user, "workdir": t.workdir });
        Digest::from(<[u8; 32]>::from(Sha256::digest(facts.to_string().as_bytes())))
    }
}

/// Names of all recipes that [`Recipe::find`] finds by name.
pub fn known(folder: &Path) -> Vec<String> {
    let mut names: BTreeSet<String> = SHIPPED.iter().map(|(n, _)| (*n).to_owned()).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".toml") {
            names.insert(name.to_owned());
        }
    }
    names.into_iter().collect()
}

fn read(path: &Path) -> Result<String, ImageError> {
    let file = |source| ImageError::File {
        step: "read",
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(file)?.len() > MAX_BYTES {
        return Err(ImageError::Recipe {
            path: path.to_owned(),
            reason: "it is larger than 1 MiB".to_owned(),
        });
    }
    fs::read_to_string(path).map_err(file)
}

/// Debian policy 5.6.1.
fn is_package(s: &str) -> bool {
    s.len() >= 2
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        // apt reads a trailing plus or minus as "install" and "remove", unless the package is called so.
        && (!s.ends_with('-'))
}

fn is_user(s: &str) -> bool {
    (1..=32).contains(&s.len())
        && s.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

fn is_clean_path(s: &str) -> bool {
    s.starts_with('/')
        && s.len() < 1024
        && !s.chars().any(char::is_control)
        && !s.split('/').any(|part| part == ".." || part == ".")
}

fn is_env_name(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests;
