//! Manual pages and completions, from the definitions that parse the command line.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use steerage::cli::Cli;

/// Where each shell looks for them, below `/usr/share`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/steerage"),
    (Shell::Zsh, "zsh/vendor-completions/_steerage"),
    (Shell::Fish, "fish/vendor_completions.d/steerage.fish"),
];

/// Writes a shell's completions.
pub fn completions(shell: Shell, to: &mut dyn Write) {
    clap_complete::generate(shell, &mut Cli::command(), "steerage", to);
}

/// Writes a manual page for each command, and the completions, below `share`.
///
/// # Errors
/// If a file can't be written.
pub fn all(share: &Path) -> anyhow::Result<()> {
    let pages = share.join("man/man8");
    fs::create_dir_all(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
    clap_mangen::generate_to(Cli::command(), &pages).context("cannot write manual pages")?;
    // Those of administrators' commands are of section 8.
    for page in fs::read_dir(&pages)? {
        let path = page?.path();
        if path.extension().is_some_and(|section| section == "1") {
            let text = fs::read_to_string(&path)?.replacen(" 1 ", " 8 ", 1);
            fs::write(path.with_extension("8"), text)?;
            fs::remove_file(path)?;
        }
    }
    for (shell, name) in SHELLS {
        let path = share.join(name);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        completions(shell, &mut file);
    }
    Ok(())
}
