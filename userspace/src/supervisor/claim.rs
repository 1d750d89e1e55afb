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
    _file: File,
    path: PathBuf,
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
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file, path: path.to_owned() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
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
        drop(Claim::take(&path).unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
