//! The configuration folder.

use std::path::{Path, PathBuf};

/// The configuration folder; it need not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDir {
    root: Option<PathBuf>,
}

impl ConfigDir {
    /// The one given, else `/etc/omnirun` for root, else `$XDG_CONFIG_HOME/omnirun` or `~/.config/omnirun`.
    pub fn find(given: Option<PathBuf>) -> Self {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let root = given.or_else(|| match rustix::process::geteuid().is_root() {
            true => Some(PathBuf::from("/etc/omnirun")),
            false => absolute("XDG_CONFIG_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".config")))
                .map(|base| base.join("omnirun")),
        });
        Self { root }
    }

    /// Where presets are.
    pub fn presets(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join("presets"))
    }

    /// The policy file of an environment, if there is one.
    pub fn environment(&self, id: &str) -> Option<PathBuf> {
        let file = self.file("environments", id)?;
        file.is_file().then_some(file)
    }

    /// The file of a preset; it need not be there.
    pub(crate) fn preset(&self, name: &str) -> Option<PathBuf> {
        self.file("presets", name)
    }

    /// Names come from flags and files: one with a slash in it is a path to elsewhere, and no name.
    fn file(&self, folder: &str, name: &str) -> Option<PathBuf> {
        let plain = Path::new(name).file_name().is_some_and(|n| n == name) && !name.starts_with('.');
        let root = self.root.as_ref().filter(|_| plain)?;
        Some(root.join(folder).join(format!("{name}.toml")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_folder() {
        let config = ConfigDir::find(Some("/c".into()));
        assert_eq!(config.preset("mine"), Some("/c/presets/mine.toml".into()));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden"] {
            assert_eq!(config.preset(name), None, "{name}");
        }
    }

    #[test]
    fn an_environment_without_a_file_has_none() {
        let root = tempfile::tempdir().unwrap();
        let config = ConfigDir::find(Some(root.path().to_owned()));
        assert_eq!(config.environment("env_1"), None);
        std::fs::create_dir(root.path().join("environments")).unwrap();
        let file = root.path().join("environments/env_1.toml");
        std::fs::write(&file, "").unwrap();
        assert_eq!(config.environment("env_1"), Some(file));
    }
}
