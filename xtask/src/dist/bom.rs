//! The bill of materials: CycloneDX 1.6, from what cargo says of the lock file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use steerage_lab::command;

use crate::shell;

/// Writes every crate that the binary is made of, its own tests and tools left out.
///
/// # Errors
/// If cargo does not say, or the file can't be written.
pub fn write(path: &Path, version: &str) -> Result<()> {
    let rustc = command::output(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it builds for")?;
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform", host];
    let metadata: Value = serde_json::from_str(&command::output(&mut shell::cargo(&arguments))?)?;
    let lock = fs::read_to_string(shell::root().join("Cargo.lock"))?;
    let bom = bom(&metadata, &lock, version).context("cargo's metadata is not as expected")?;
    fs::write(path, serde_json::to_vec_pretty(&bom)?)?;
    Ok(())
}

fn bom(metadata: &Value, lock: &str, version: &str) -> Option<Value> {
    let packages = metadata["packages"].as_array()?;
    let nodes = metadata["resolve"]["nodes"].as_array()?;
    let root = packages.iter().find(|package| package["name"] == "steerage")?["id"].as_str()?;
    let mut inside = BTreeSet::new();
    let mut next = vec![root];
    while let Some(id) = next.pop() {
        if !inside.insert(id) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id)?;
        let of_binary = |dependency: &&Value| {
            let kinds = dependency["dep_kinds"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        let dependencies = node["deps"].as_array()?.iter().filter(of_binary);
        next.extend(dependencies.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    let components: Vec<Value> = packages
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| inside.contains(id)))
        .filter(|package| package["id"] != root)
        .map(|package| component(package, lock))
        .collect();
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": { "type": "application", "name": "steerage", "version": version }
        },
        "components": components,
    }))
}

fn component(package: &Value, lock: &str) -> Value {
    let name = package["name"].as_str().unwrap_or_default();
    let version = package["version"].as_str().unwrap_or_default();
    let mut component = json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
    });
    if let Some(license) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksum(lock, name, version) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// What the lock file says of a crate's archive; none of those in the repository itself.
fn checksum<'a>(lock: &'a str, name: &str, version: &str) -> Option<&'a str> {
    let (name, version) = (format!("name = \"{name}\""), format!("version = \"{version}\""));
    let entry = lock.split("[[package]]").find(|entry| {
        let has = |wanted: &str| entry.lines().any(|line| line == wanted);
        has(&name) && has(&version)
    })?;
    entry.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_tests_need_is_not() {
        let kind = |kind: Value| json!([{ "kind": kind }]);
        let metadata = json!({
            "packages": [
                { "id": "s", "name": "steerage", "version": "1.0.0" },
                { "id": "a", "name": "a", "version": "2.0.0", "license": "MIT/Apache-2.0" },
                { "id": "b", "name": "b", "version": "3.0.0" },
                { "id": "t", "name": "t", "version": "4.0.0" },
            ],
            "resolve": { "nodes": [
                { "id": "s", "deps": [
                    { "pkg": "a", "dep_kinds": kind(Value::Null) },
                    { "pkg": "t", "dep_kinds": kind("dev".into()) },
                ] },
                { "id": "a", "deps": [{ "pkg": "b", "dep_kinds": kind(Value::Null) }] },
                { "id": "b", "deps": [] },
                { "id": "t", "deps": [] },
            ] },
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"2.0.0\"\nchecksum = \"c0ffee\"\n";
        let bom = bom(&metadata, lock, "1.0.0").unwrap();
        let names: Vec<_> =
            bom["components"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bom["components"][0]["hashes"][0]["content"], "c0ffee");
        assert_eq!(bom["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
