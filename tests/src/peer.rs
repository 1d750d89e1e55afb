//! Other people's servers and proxies as peers of a test: nginx and HAProxy, on a host of the laboratory.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use steerage_lab::daemon::PATIENCE;
use steerage_lab::netns::{self, Netns};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;

/// nginx with this in its `http` block, answering at `address`.
///
/// # Errors
/// If it does not answer, with what it said.
pub fn nginx(host: &Netns, scratch: &Scratch, http: &str, address: SocketAddr) -> Result<Process> {
    let directory = scratch.path().display();
    let name = format!("nginx-{}", host.name());
    let config = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/{name}.pid;\n\
         error_log {directory}/{name}.log;\nevents {{}}\n\
         http {{\n access_log off;\n client_body_temp_path {directory}/{name}-body;\n\
         proxy_temp_path {directory}/{name}-proxy;\n fastcgi_temp_path {directory}/{name}-fastcgi;\n\
         uwsgi_temp_path {directory}/{name}-uwsgi;\n scgi_temp_path {directory}/{name}-scgi;\n\
         {http}\n}}\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &config)?;
    let mut command = host.command("nginx");
    command.arg("-c").arg(config);
    start(host, command, &name, scratch, address)
}

/// HAProxy with these sections after its defaults, answering at `address`.
///
/// # Errors
/// If it does not answer, with what it said.
pub fn haproxy(
    host: &Netns,
    scratch: &Scratch,
    sections: &str,
    address: SocketAddr,
) -> Result<Process> {
    let name = format!("haproxy-{}", host.name());
    let config = format!(
        "defaults\n timeout connect 3s\n timeout client 60s\n timeout server 60s\n{sections}\n"
    );
    let config = scratch.write(&format!("{name}.cfg"), &config)?;
    let mut command = host.command("haproxy");
    command.args(["-db", "-f"]).arg(config);
    start(host, command, &name, scratch, address)
}

fn start(
    host: &Netns,
    command: std::process::Command,
    name: &str,
    scratch: &Scratch,
    address: SocketAddr,
) -> Result<Process> {
    let process = Process::spawn(name, command, &scratch.join(&format!("{name}.out")))?;
    netns::wait_for_port(host, address, PATIENCE)
        .with_context(|| format!("{name}: {}", process.log_tail(10)))?;
    Ok(process)
}
