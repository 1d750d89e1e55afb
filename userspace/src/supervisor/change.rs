//! Changes of the configuration by an operator: edits of the text in force, whole other texts, and
//! former ones. Each is checked and put in force as the file is.
//!
//! A change holds until the file is read the next time, unless it is to be persisted: then it is made in
//! the file as well, before it is in force, and whatever else the file says stays as it is written.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tracing::info;

use super::steward::{Steward, note};
use super::{Error, discovery};
use crate::admin::order::{ConfigChange, Reloaded};
use crate::config::{self, edit};

impl Steward {
    /// Makes a change, and logs what came of it.
    pub(super) async fn change(
        &mut self,
        change: ConfigChange,
        persist: bool,
    ) -> Result<Reloaded, Error> {
        let why = change.title();
        info!(why, persist, "change by an operator");
        let outcome = self.try_change(&change, persist, &why).await;
        note(&self.view, &outcome);
        outcome
    }

    async fn try_change(
        &mut self,
        change: &ConfigChange,
        persist: bool,
        why: &str,
    ) -> Result<Reloaded, Error> {
        let text = self.changed(self.revisions.text(), change)?;
        let model = self.source.parse(&text)?;
        let file = match persist {
            true => Some(self.changed_file(change, &text)?),
            false => None,
        };
        let reloaded = self.take_asked(model).await?;
        if let Some(file) = file {
            let path = &self.source.path;
            write(path, &file).map_err(|source| Error::Persist { path: path.clone(), source })?;
            self.text = file;
        }
        self.revisions.add(text, why);
        Ok(reloaded)
    }

    fn changed(&self, text: &str, change: &ConfigChange) -> Result<String, Error> {
        match change {
            ConfigChange::Edit(one) => Ok(edit::edit(text, one)?),
            ConfigChange::Apply(text) => Ok(text.clone()),
            ConfigChange::Rollback(number) => {
                let found = self.revisions.find(*number);
                found.map(|(_, text)| text.to_owned()).ok_or(Error::NoRevision(*number))
            }
        }
    }

    /// The file after the change. Other changes at run time are not made in it.
    fn changed_file(&self, change: &ConfigChange, text: &str) -> Result<String, Error> {
        let ConfigChange::Edit(one) = change else { return Ok(text.to_owned()) };
        let file = edit::edit(&config::read(&self.source.path)?, one)?;
        // What is written must be what a restart takes.
        self.source.parse(&file)?;
        Ok(file)
    }

    /// Takes a model, and what DNS says to it.
    pub(super) async fn take_asked(&mut self, model: config::Model) -> Result<Reloaded, Error> {
        // What begins to serve has somebody to serve it.
        discovery::ask_first(&model, &mut self.answers).await;
        let reloaded = self.take(discovery::with_found(&model, &self.answers)).await?;
        self.answers.retain(|question, _| discovery::questions(&model).any(|q| q == *question));
        self.asked = model;
        Ok(reloaded)
    }
}

/// Replaces the file by one with other contents, whole or not at all; a link stays one. Owner and mode
/// stay.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    let former = path.metadata()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let other = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&other)?;
        file.set_permissions(former.permissions())?;
        std::os::unix::fs::fchown(&file, Some(former.uid()), Some(former.gid()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&other, &path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&other);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_through_its_link() {
        let directory =
            std::env::temp_dir().join(format!("steerage-change-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (real, link) = (directory.join("real.toml"), directory.join("link.toml"));
        fs::write(&real, "one").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real.toml", &link).unwrap();
        write(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "two");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing is left behind");
        assert!(write(&directory.join("none.toml"), "x").is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
