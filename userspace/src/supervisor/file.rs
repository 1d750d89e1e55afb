//! When the configuration file, or one that it names, may have changed.
//!
//! What is watched are directories: an editor puts a new file in the place of the old one, and a mounted
//! ConfigMap turns a symbolic link over, of which the old file itself tells nothing. Each directory
//! that a path leads through by links is watched, and the way is followed anew after every event.
//! Whether a file holds something else then is for the reader to see.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// The several steps in which editors and synchronisers write count as one: no further event may come
/// for so long.
const SETTLE: Duration = Duration::from_millis(50);

/// Links that are followed, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Room for many events.
const BUFFER_BYTES: usize = 4096;

/// Files that are watched.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// `None` where the kernel gives no watch.
    inotify: Option<AsyncFd<Inotify>>,
    watched: HashMap<PathBuf, WatchDescriptor>,
    /// Whether something happened that nobody was told of.
    is_touched: bool,
}

impl FileWatch {
    /// Watches from now on. Without inotify nothing is ever seen, which is logged.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let opened = Inotify::init().and_then(readable);
        let inotify = opened.map_err(|error| {
            warn!(%error, "files are not watched: reload by hand");
        });
        let mut watch = Self {
            paths: Vec::new(),
            inotify: inotify.ok(),
            watched: HashMap::new(),
            is_touched: false,
        };
        watch.turn_to(paths);
        watch
    }

    /// Watches these files, and no others, from now on.
    pub fn turn_to<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let paths: Vec<PathBuf> = paths.into_iter().map(absolute).collect();
        if paths != self.paths {
            self.paths = paths;
            self.follow();
        }
    }

    /// A file may have changed, and nothing has happened to any for a moment. May be dropped at any
    /// time: what has happened is told by the next call.
    pub async fn changed(&mut self) {
        if !self.is_touched {
            self.event().await;
        }
        while tokio::time::timeout(SETTLE, self.event()).await.is_ok() {}
        self.is_touched = false;
        self.follow();
    }

    /// Something happened in a directory.
    async fn event(&mut self) {
        let Some(inotify) = &mut self.inotify else { return std::future::pending().await };
        let Ok(mut ready) = inotify.readable_mut().await else {
            return std::future::pending().await;
        };
        let mut buffer = [0; BUFFER_BYTES];
        // What happened says less than the file itself.
        while let Ok(events) = ready.get_inner_mut().read_events(&mut buffer) {
            for event in events.filter(|event| event.mask.contains(EventMask::IGNORED)) {
                self.watched.retain(|_, watched| *watched != event.wd);
            }
        }
        ready.clear_ready();
        self.is_touched = true;
    }

    /// Watches the directories of the ways to the files as they are now.
    fn follow(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut watches = inotify.get_ref().watches();
        let way: BTreeSet<PathBuf> = self.paths.iter().flat_map(|path| directories(path)).collect();
        self.watched.retain(|directory, watched| {
            way.contains(directory) || watches.remove(watched.clone()).is_err()
        });
        for directory in way {
            // Those of a directory that is watched already stay.
            let mask = WatchMask::CLOSE_WRITE
                | WatchMask::CREATE
                | WatchMask::DELETE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::ONLYDIR;
            if let Ok(watched) = watches.add(&directory, mask) {
                self.watched.insert(directory, watched);
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, and this type keeps one descriptor for life"
)]
fn readable(inotify: Inotify) -> std::io::Result<AsyncFd<Inotify>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

/// The directories in which the path, or a link that it leads through, stands.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let mut next = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(parent) = next.parent().map(Path::to_owned) else { break };
        if !directories.contains(&parent) {
            directories.push(parent.clone());
        }
        // A directory of the way may be a link itself, as a ConfigMap's `..data` is.
        if let Ok(target) = std::fs::read_link(&parent)
            && let Some(above) = parent.parent()
        {
            for directory in [above.to_owned(), above.join(target)] {
                if !directories.contains(&directory) {
                    directories.push(directory);
                }
            }
        }
        match std::fs::read_link(&next) {
            Ok(target) => next = parent.join(target),
            Err(_) => break,
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("steerage-file-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn assert_seen(watch: &mut FileWatch, change: impl FnOnce()) {
        change();
        tokio::time::timeout(PATIENCE, watch.changed()).await.expect("the change was not seen");
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_seen() {
        let directory = Directory::new("plain");
        let path = directory.0.join("steerage.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new([&*path]);
        assert_seen(&mut watch, || fs::write(&path, "two").unwrap()).await;
        for _ in 0..2 {
            assert_seen(&mut watch, || {
                let other = directory.0.join(".steerage.toml.swp");
                fs::write(&other, "three").unwrap();
                fs::rename(other, &path).unwrap();
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_config_map_that_is_turned_over_is_seen_again_and_again() {
        let directory = Directory::new("map");
        let at = |name: &str| directory.0.join(name);
        let turn = |version: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("steerage.toml"), version).unwrap();
            symlink(version, at("..tmp")).unwrap();
            fs::rename(at("..tmp"), at("..data")).unwrap();
        };
        turn("..one");
        symlink("..data/steerage.toml", at("steerage.toml")).unwrap();
        let mut watch = FileWatch::new([&*at("steerage.toml")]);
        for version in ["..two", "..three"] {
            assert_seen(&mut watch, || turn(version)).await;
            assert_eq!(fs::read_to_string(at("steerage.toml")).unwrap(), version);
        }
        // What happened is not forgotten by whoever has no time for it.
        turn("..four");
        let interrupted = tokio::time::timeout(SETTLE / 2, watch.changed()).await;
        assert!(interrupted.is_err(), "nothing settles that soon");
        assert_seen(&mut watch, || {}).await;
        // What the link leads to is watched as well.
        assert_seen(&mut watch, || fs::write(at("..four/steerage.toml"), "five").unwrap()).await;
    }

    #[tokio::test]
    async fn a_file_elsewhere_is_seen_through_its_link() {
        let (here, there) = (Directory::new("here"), Directory::new("there"));
        fs::write(there.0.join("real.toml"), "one").unwrap();
        symlink(there.0.join("real.toml"), here.0.join("steerage.toml")).unwrap();
        let mut watch = FileWatch::new([&*here.0.join("steerage.toml")]);
        assert_seen(&mut watch, || fs::write(there.0.join("real.toml"), "two").unwrap()).await;
    }

    #[tokio::test]
    async fn of_several_files_each_is_seen_and_others_may_take_their_place() {
        let (one, other) = (Directory::new("one"), Directory::new("other"));
        let (cert, key) = (one.0.join("cert.pem"), other.0.join("key.pem"));
        let mut watch = FileWatch::new([&*cert, &*key]);
        for path in [&cert, &key] {
            assert_seen(&mut watch, || fs::write(path, "x").unwrap()).await;
        }
        let third = Directory::new("third");
        let renewed = third.0.join("renewed.pem");
        watch.turn_to([&*renewed, &*key]);
        for path in [&renewed, &key] {
            assert_seen(&mut watch, || fs::write(path, "y").unwrap()).await;
        }
        assert_eq!(watch.watched.len(), 2, "nobody asks for the first one any more");
    }
}
