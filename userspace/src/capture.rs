//! `steerage capture`: packets of vips, before and after the program, as a pcapng file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use nix::net::if_::if_indextoname;
use steerage::cli::Capture as Options;
use steerage::config::Model;
use steerage::config::model::table_address;
use steerage::kernel::capture::Capture;
use steerage::kernel::capture::pcapng::Writer;
use steerage::{supervisor, sys};
use steerage_common::capture::Filter;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

/// Captures until there are enough, or a signal comes.
///
/// # Errors
/// If there are no programs, another capture runs, or the file can't be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let model = options.config.source()?.load()?;
    let filter = options.vip.as_deref().map(|name| filter(name, &model)).transpose()?;
    let out: Box<dyn Write> = if options.write == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        let file = File::create(&options.write);
        Box::new(file.with_context(|| format!("cannot write {}", options.write.display()))?)
    };
    let instance = supervisor::instance_dir(&model);
    let mut capture = Capture::begin(&instance, options.sample, &filter.unwrap_or_default())?;
    let mut writer = Writer::new(BufWriter::new(out))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let taken = runtime.block_on(take(&mut capture, &mut writer, options.count))?;
    let lost = capture.lost();
    eprintln!("{taken} packets captured, {lost} lost for lack of room");
    Ok(())
}

/// The descriptor of a capture, which outlives its waiting.
struct Readable(RawFd);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

async fn take(
    capture: &mut Capture,
    writer: &mut Writer<impl Write>,
    count: Option<u64>,
) -> anyhow::Result<u64> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, and a capture keeps one descriptor for life"
    )]
    let waiting = AsyncFd::with_interest(Readable(capture.as_raw_fd()), Interest::READABLE)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut turns = tokio::time::interval(Duration::from_secs(1));
    eprintln!("capturing");
    let mut taken = 0;
    loop {
        let mut is_ending = false;
        tokio::select! {
            ready = waiting.readable() => ready?.clear_ready(),
            _ = turns.tick() => capture.extend(),
            _ = terminate.recv() => is_ending = true,
            _ = interrupt.recv() => is_ending = true,
        }
        let clock_ns = clock_ns()?;
        for packet in capture.by_ref() {
            if count.is_some_and(|count| taken >= count) {
                break;
            }
            let name = if_indextoname(packet.ifindex).ok();
            let name = name.as_deref().and_then(|name| name.to_str().ok());
            let link = name.map_or_else(|| format!("link {}", packet.ifindex), str::to_owned);
            writer.write(&packet, &link, clock_ns)?;
            taken += 1;
        }
        writer.flush()?;
        if is_ending || count.is_some_and(|count| taken >= count) {
            return Ok(taken);
        }
    }
}

/// The time since 1970 less the monotonic time.
fn clock_ns() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(now.saturating_sub(sys::monotonic()).as_nanos() as u64)
}

/// The packets of one vip.
fn filter(name: &str, model: &Model) -> anyhow::Result<Filter> {
    let Some(vip) = model.vips.iter().find(|vip| vip.name == name) else {
        bail!("no vip is named {name:?}; `steerage status` shows those there are");
    };
    let (address, family) = table_address(vip.address.ip());
    let (port_be, protocol) = (vip.address.port().to_be(), vip.protocol.number());
    Ok(Filter { address, port_be, protocol, family })
}
