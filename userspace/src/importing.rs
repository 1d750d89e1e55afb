//! `steerage import`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use steerage::config::{Overrides, Source};
use steerage::import::{self, Kind, Remark, Weight};

/// Writes what a file becomes to `output` or standard output, what is to be said of it to standard error,
/// and checks that it is a configuration.
pub fn run(file: &Path, kind: Option<Kind>, output: Option<PathBuf>) -> anyhow::Result<()> {
    let imported = import::import(file, kind.unwrap_or_else(|| import::kind_of(file)))?;
    match &output {
        Some(output) => std::fs::write(output, &imported.text)
            .with_context(|| format!("{}: cannot be written", output.display()))?,
        None => print!("{}", imported.text),
    }
    for remark in &imported.remarks {
        eprintln!("{remark}");
    }
    eprintln!("{}", summary(&imported.remarks));
    let path = output.unwrap_or_else(|| "imported.toml".into());
    let source = Source { path, overrides: Overrides::default() };
    let model = source.parse(&imported.text)?;
    super::check_certificates(&model)
}

fn summary(remarks: &[Remark]) -> String {
    let count = |weight| remarks.iter().filter(|remark| remark.weight == weight).count();
    let weights = [Weight::LeftOut, Weight::Differs, Weight::Unneeded];
    let parts = weights.map(|weight| format!("{} {}", count(weight), weight.name()));
    format!("directives: {}", parts.join(", "))
}
