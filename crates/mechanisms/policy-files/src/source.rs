//! A policy and where it comes from, as it changes.

use crate::{ConfigDir, PolicyFileError, watch::Folders};
use omnirun_egress_policy::{NetFlag, Policy, PresetSource};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

impl PresetSource for ConfigDir {
    fn preset(&self, name: &str) -> Result<Option<String>, String> {
        let Some(path) = ConfigDir::preset(self, name) else {
            return Ok(None);
        };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    fn names(&self) -> Vec<String> {
        let files = self.presets().and_then(|folder| fs::read_dir(folder).ok());
        let paths = files.into_iter().flatten().flatten().map(|file| file.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect()
    }
}

/// A policy in force. It is followed for as long as this lives, and stays what it was then.
#[derive(Debug)]
pub struct PolicySource {
    policy: watch::Receiver<Arc<Policy>>,
    /// None if nothing of it can change.
    _following: Option<AbortOnDropHandle<()>>,
}

impl PolicySource {
    /// Reads it. Only inside a runtime.
    ///
    /// # Errors
    /// [`PolicyFileError`].
    pub fn open(flag: &NetFlag, config: &ConfigDir) -> Result<Self, PolicyFileError> {
        // Before the first reading: what changes in between is seen.
        let folders = folders(flag, config);
        let watched = (!folders.is_empty())
            .then(|| Folders::watch(&folders))
            .transpose()?;
        let (publish, policy) = watch::channel(Arc::new(read(flag, config)?));
        let following = watched.map(|watched| {
            let (flag, config) = (flag.clone(), config.clone());
            AbortOnDropHandle::new(tokio::spawn(follow(watched, flag, config, publish)))
        });
        Ok(Self {
            policy,
            _following: following,
        })
    }

    /// The policy, as it changes.
    pub fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.clone()
    }
}

/// What a flag means now.
///
/// # Errors
/// [`PolicyFileError`].
pub fn read(flag: &NetFlag, config: &ConfigDir) -> Result<Policy, PolicyFileError> {
    let NetFlag::File(path) = flag else {
        return Policy::from_flag(flag, config).map_err(PolicyFileError::Flag);
    };
    let text = fs::read_to_string(path).map_err(|source| PolicyFileError::File {
        step: "read",
        path: path.clone(),
        source,
    })?;
    Policy::from_toml(&text, config).map_err(|source| PolicyFileError::Policy {
        path: path.clone(),
        source,
    })
}

/// Where something may change that a policy is made of.
fn folders(flag: &NetFlag, config: &ConfigDir) -> Vec<PathBuf> {
    let presets = || config.presets().into_iter();
    match flag {
        NetFlag::None | NetFlag::Open => Vec::new(),
        NetFlag::Allow(entries) if !entries.iter().any(|entry| entry.starts_with("preset:")) => Vec::new(),
        NetFlag::Allow(_) => presets().collect(),
        NetFlag::File(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).to_owned();
            presets().chain([folder]).collect()
        }
    }
}

async fn follow(folders: Folders, flag: NetFlag, config: ConfigDir, publish: watch::Sender<Arc<Policy>>) {
    loop {
        if let Err(error) = folders.changed().await {
            tracing::error!(%error, "the egress policy is not followed any more; it stays as it is");
            return;
        }
        let (again, from) = (flag.clone(), config.clone());
        match tokio::task::spawn_blocking(move || read(&again, &from)).await {
            Ok(Ok(policy)) => {
                let changed = publish.send_if_modified(|known| {
                    let differs = **known != policy;
                    if differs {
                        *known = Arc::new(policy);
                    }
                    differs
                });
                if changed {
                    tracing::info!(%flag, "the egress policy has changed");
                }
            }
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the egress policy cannot be read; what was in force stays so"
            ),
            // The runtime ends.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirun_egress_policy::Name;

    fn allows(policy: &Policy, name: &str) -> bool {
        let name = Name::parse(name.as_bytes()).expect("a name");
        policy.name(&name, 443).allows()
    }

    struct Bench {
        folder: tempfile::TempDir,
        config: ConfigDir,
        flag: NetFlag,
    }

    fn bench(text: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("presets")).unwrap();
        let file = folder.path().join("policy.toml");
        fs::write(&file, text).unwrap();
        Bench {
            config: ConfigDir::find(Some(folder.path().to_owned())),
            flag: NetFlag::File(file),
            folder,
        }
    }

    impl Bench {
        fn write(&self, name: &str, text: &str) {
            // As editors do it: another file takes the place.
            let fresh = self.folder.path().join("fresh");
            fs::write(&fresh, text).unwrap();
            fs::rename(fresh, self.folder.path().join(name)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_changed_file_is_followed_and_a_broken_or_missing_one_changes_nothing() {
        let b = bench("allow = [\"a.example\"]");
        let source = PolicySource::open(&b.flag, &b.config).unwrap();
        let mut policy = source.policy();
        assert!(allows(&policy.borrow_and_update(), "a.example"));
        b.write("policy.toml", "allow = [\"b.example\"]");
        policy.changed().await.unwrap();
        assert!(!allows(&policy.borrow_and_update(), "a.example"));
        b.write("policy.toml", "allow = [");
        fs::remove_file(b.folder.path().join("policy.toml")).unwrap();
        b.write("policy.toml", "allow = [\"b.example\", \"c.example\"]");
        policy.changed().await.unwrap();
        let now = policy.borrow_and_update().clone();
        assert!(allows(&now, "b.example") && allows(&now, "c.example"));
    }

    #[tokio::test]
    async fn a_changed_preset_changes_what_it_is_part_of() {
        let b = bench("allow = [\"preset:mine\"]");
        b.write("presets/mine.toml", "allow = [\"a.example\"]");
        for flag in [b.flag.clone(), "preset:mine".parse().unwrap()] {
            b.write("presets/mine.toml", "allow = [\"a.example\"]");
            let source = PolicySource::open(&flag, &b.config).unwrap();
            let mut policy = source.policy();
            assert!(allows(&policy.borrow_and_update(), "a.example"), "{flag}");
            b.write("presets/mine.toml", "allow = [\"z.example\"]");
            policy.changed().await.unwrap();
            assert!(allows(&policy.borrow_and_update(), "z.example"), "{flag}");
        }
    }

    #[tokio::test]
    async fn a_preset_that_cannot_be_read_is_not_the_one_of_ours() {
        let b = bench("allow = [\"preset:github\"]");
        fs::create_dir(b.folder.path().join("presets/github.toml")).unwrap();
        let wrong = PolicySource::open(&b.flag, &b.config).unwrap_err();
        let cause = std::error::Error::source(&wrong).unwrap().to_string();
        assert!(cause.contains("presets/github.toml"), "{cause}");
        let unknown = PolicySource::open(&"preset:mine2".parse().unwrap(), &b.config).unwrap_err();
        let cause = std::error::Error::source(&unknown).unwrap().to_string();
        assert!(cause.ends_with("anthropic, github"), "{cause}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let b = bench("allow = [\"a b\"]");
        let wrong = PolicySource::open(&b.flag, &b.config).unwrap_err();
        assert!(wrong.to_string().contains("policy.toml"), "{wrong}");
        let gone = NetFlag::File("/nowhere/policy.toml".into());
        let gone = PolicySource::open(&gone, &b.config).unwrap_err();
        assert!(gone.to_string().contains("/nowhere/policy.toml"), "{gone}");
    }
}
