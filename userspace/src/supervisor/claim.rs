//! The claim to an instance: a locked PID file.
//!
//! The lock, not the number, says whether another daemon runs: it ends with its holder however that
//! dies, so a stale file needs nobody's hand.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::Error;

/// A held claim; dropping it gives it up and removes the file.
#[derive(Debug)]
pub struct Claim {
    // Held for its lock.
    file: File,
    path: PathBuf,
    is_passed_on: bool,
}

impl Claim {
    /// Claims the instance that `path` stands for.
    ///
    /// # Errors
    /// If another daemon holds it, or the file can't be written.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::PidFile { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut text = String::new();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                file.read_to_string(&mut text).map_err(failed)?;
                let pid = text.trim().to_owned();
                return Err(Error::AlreadyRunning { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut claim = Self { file, path: path.to_owned(), is_passed_on: false };
        claim.sign()?;
        Ok(claim)
    }

    /// The claim of the daemon that this one follows. It is not given up by this one's failure.
    #[must_use]
    pub fn inherited(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned(), is_passed_on: true }
    }

    /// Makes it this process's: the file says who holds it.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn sign(&mut self) -> Result<(), Error> {
        let signed = (|| {
            self.file.set_len(0)?;
            self.file.rewind()?;
            writeln!(self.file, "{}", std::process::id())
        })();
        signed.map_err(|source| Error::PidFile { path: self.path.clone(), source })?;
        self.is_passed_on = false;
        Ok(())
    }

    /// Leaves it to the daemon that follows this one.
    pub fn pass_on(&mut self) {
        self.is_passed_on = true;
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_passed_on {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_daemon_holds_an_instance_and_a_stale_file_is_no_claim() {
        let dir = std::env::temp_dir().join(format!("steerage-claim-{}", std::process::id()));
        let path = dir.join("deep/steerage.pid");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "99999\n").unwrap();
        let claim = Claim::take(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let refused = Claim::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(claim);
        assert!(!path.exists());
        let mut claim = Claim::take(&path).unwrap();
        // The daemon that follows fails, then one does not; the lock is held throughout.
        let heir = || Claim::inherited(claim.file().try_clone().unwrap(), &path);
        drop(heir());
        assert!(path.exists() && Claim::take(&path).is_err());
        let mut heir = heir();
        heir.sign().unwrap();
        claim.pass_on();
        drop(claim);
        assert!(path.exists() && Claim::take(&path).is_err());
        drop(heir);
        drop(Claim::take(&path).unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
