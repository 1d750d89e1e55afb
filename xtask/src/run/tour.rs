//! The guided tour: what the demo shows, and what must be true of it.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use steerage_lab::command;
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::topology::{BALANCER, VIP};
use steerage_lab::{interrupt, wait};

use super::record::{Loss, Tally, first_answer, milliseconds};
use super::{BACKENDS, Demo};

/// Requests of the first look at L7.
const REQUESTS: usize = 300;
/// Connections of the first look at L4.
const CONNECTIONS: usize = 150;
/// The backend that dies.
const VICTIM: u8 = 2;
/// Both planes must steer away, and come back, within this.
const PATIENCE: Duration = Duration::from_secs(15);
/// So long no failure and no answer of the dead one may be seen.
const CALM: Duration = Duration::from_millis(300);

fn l7() -> SocketAddr {
    SocketAddr::from((BALANCER, 8080))
}

fn l4() -> SocketAddr {
    SocketAddr::from((VIP, 80))
}

/// Walks through the tour.
///
/// # Errors
/// If something is not as it should be.
pub fn walk(demo: &mut Demo) -> Result<()> {
    introduce(demo);
    distribution(demo)?;
    death_and_return(demo)?;
    println!("\n4. What the daemon says now\n");
    print!("{}", indented(&demo.daemon.status_text()?));
    Ok(())
}

fn introduce(demo: &Demo) {
    println!(
        "
Steerage: one service, three backends, two doors, one health bitmap.

  client ──── balancer ──┬── backend-1 10.81.1.2
  10.80.0.2   10.80.0.1  ├── backend-2 10.81.2.2
                         └── backend-3 10.81.3.2

  L7  http://{}/   a worker process reads each request and picks a backend
  L4  http://{VIP}/       XDP rewrites each packet in the kernel; no process sees it

  hosts:          network namespaces {}*
  configuration:  {}",
        l7(),
        demo.topology.client.name().trim_end_matches("client"),
        demo.config.display(),
    );
}

fn distribution(demo: &Demo) -> Result<()> {
    println!("\n1. Traffic through both doors\n");
    let client = &demo.topology.client;
    let ask = |url: &str, more: &[&str]| {
        let mut command = client.command("curl");
        command.args(["-sS", "--fail", "--max-time", "20"]).args(more).arg(url);
        println!("  $ nsenter --net=… curl {} '{url}'", more.join(" "));
        command::output(&mut command).map(|text| Tally::of_lines(&text))
    };
    let requests = ask(&format!("http://{}/?[1-{REQUESTS}]", l7()), &["-s"])?;
    println!("    {REQUESTS} requests on one connection:  {requests}\n");
    let connections =
        ask(&format!("http://{VIP}/?[1-{CONNECTIONS}]"), &["-s", "-HConnection:close"])?;
    println!("    {CONNECTIONS} connections:                {connections}");
    for number in 1..=BACKENDS {
        let name = format!("backend-{number}");
        let fair = REQUESTS / usize::from(BACKENDS);
        let (l7, l4) = (requests.count(&name), connections.count(&name));
        ensure!(l7 == fair, "{name} got {l7} of {REQUESTS} requests, round robin gives {fair}");
        ensure!(l4 > 0, "{name} got none of {CONNECTIONS} connections to the vip");
    }
    ensure!(requests.total() == REQUESTS, "only {} of {REQUESTS} answered", requests.total());
    let answered = connections.total();
    ensure!(answered == CONNECTIONS, "only {answered} of {CONNECTIONS} connections answered");
    show_bitmap(demo)
}

fn death_and_return(demo: &mut Demo) -> Result<()> {
    let name = format!("backend-{VICTIM}");
    let client = &demo.topology.client;
    let requests = Poller::start(client, l7(), Reuse::KeepAlive)?;
    let connections = Poller::start(client, l4(), Reuse::Never)?;
    let begun = Instant::now();
    wait::for_condition("answers of every backend at both doors", PATIENCE, || {
        [&requests, &connections].iter().all(|p| p.heard(&name, begun))
    })?;

    println!("\n2. {name} is killed (SIGKILL) while clients ask without pause at both doors\n");
    let slot = slot(&demo.daemon.status()?, VICTIM)?;
    let (death, cleared) = until_bit(demo, slot, false, |demo| {
        demo.backends[usize::from(VICTIM) - 1].kill().map(drop)
    })?;
    wait::for_condition("both planes to leave the dead backend alone", PATIENCE, || {
        [&requests, &connections].iter().all(|poller| calm(poller, &name))
    })?;
    let (l7_loss, l4_loss) =
        (Loss::read(&requests.samples(), death), Loss::read(&connections.samples(), death));
    println!(
        "  its bit is cleared      {} after the kill, as bpftool sees it",
        milliseconds(cleared)
    );
    println!("  L7: of requests         {l7_loss}");
    println!("  L4: of connections      {l4_loss}");
    show_bitmap(demo)?;
    // The one that the dead backend was working on may be lost; what was sent is not sent again.
    ensure!(l7_loss.failed <= 1, "{} requests failed, and at most one should", l7_loss.failed);

    println!("\n3. {name} is started again\n");
    let (birth, set) = until_bit(demo, slot, true, |demo| demo.revive(VICTIM))?;
    wait::for_condition("both planes to use the backend again", PATIENCE, || {
        [&requests, &connections].iter().all(|poller| poller.heard(&name, birth))
    })?;
    println!("  its bit is set          {} after it listens", milliseconds(set));
    for (door, poller) in [("L7", requests), ("L4", connections)] {
        let samples = poller.stop();
        let first = first_answer(&samples, &name, birth).context("no answer after all")?;
        println!("  {door}: its first answer   {} after it listens", milliseconds(first));
        let failed = Loss::read(&samples, birth).failed;
        ensure!(failed == 0, "{door}: {failed} requests failed while the backend came back");
    }
    show_bitmap(demo)
}

/// Does something to a backend and watches its bit; gives when it was done, and how long after that
/// the bit had changed (as fine as one run of bpftool, some milliseconds).
fn until_bit(
    demo: &mut Demo,
    slot: u64,
    wanted: bool,
    act: impl FnOnce(&mut Demo) -> Result<()>,
) -> Result<(Instant, Duration)> {
    let path = demo.pins.join("HEALTH");
    let (stopped, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !stopped.load(Ordering::SeqCst) && began.elapsed() < 2 * PATIENCE {
                interrupt::check()?;
                if bits(&path)? >> slot & 1 == u64::from(wanted) {
                    return Ok(Instant::now());
                }
            }
            anyhow::bail!("the bit of slot {slot} did not change")
        });
        let acted = act(demo).map(|()| Instant::now());
        stopped.store(acted.is_err(), Ordering::SeqCst);
        let changed = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        let acted = acted?;
        Ok((acted, changed?.saturating_duration_since(acted)))
    })
}

/// Whether nothing failed lately and the dead one was not heard.
fn calm(poller: &Poller, dead: &str) -> bool {
    let Some(since) = Instant::now().checked_sub(CALM) else { return false };
    let recent: Vec<Sample> = poller.since(since);
    let good = |sample: &Sample| sample.answer.as_ref().is_ok_and(|name| name != dead);
    recent.len() >= 10 && recent.iter().all(good)
}

/// The slot of a backend, by its number.
fn slot(status: &Value, number: u8) -> Result<u64> {
    let backend = &status["services"][0]["backends"][usize::from(number) - 1];
    backend["slot"].as_u64().with_context(|| format!("status has no slot of backend {number}"))
}

/// The first word of the bitmap.
fn bits(health: &std::path::Path) -> Result<u64> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["--json", "map", "lookup", "pinned"]).arg(health).args("key 0 0 0 0".split(' '));
    let value: Value = serde_json::from_str(&command::output(&mut bpftool)?)?;
    let word = &value["formatted"]["value"]["accepts_new"];
    word.as_u64().with_context(|| format!("HEALTH has no accepts_new in {value}"))
}

fn show_bitmap(demo: &Demo) -> Result<()> {
    let health = demo.pins.join("HEALTH");
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["map", "dump", "pinned"]).arg(&health);
    println!("\n  $ {}", command::line(&bpftool));
    let dump: Value = serde_json::from_str(&command::output(&mut bpftool)?)
        .context("bpftool knows no types of HEALTH")?;
    let words = dump.as_array().context("HEALTH is no array")?;
    let first = words.first().context("HEALTH is empty")?;
    println!("    [{first}, … and {} words more]", words.len() - 1);
    let bits = first["value"]["accepts_new"].as_u64().context("HEALTH has no accepts_new")?;
    let status = demo.daemon.status()?;
    let mut names = Vec::new();
    for number in 1..=BACKENDS {
        let slot = slot(&status, number)?;
        let word = if bits >> slot & 1 == 1 { "takes new work" } else { "takes none" };
        names.push(format!("bit {slot}: backend-{number} {word}"));
    }
    println!("    {}", names.join("; "));
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
