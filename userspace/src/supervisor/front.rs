//! What a start opens outside the kernel's tables.

use std::net::SocketAddr;

use super::handover::Inheritance;
use super::listeners::Listening;
use super::{Error, network, systemd};
use crate::admin::server::bind_admin;
use crate::config::Model;
use crate::sys::{self, Account};

/// What clients and operators connect to, and who serves them: all that can fail for reasons outside
/// the kernel's tables.
pub struct Front {
    /// Where workers run.
    pub cpus: Vec<usize>,
    /// How many there are.
    pub workers: usize,
    /// Who they run as.
    pub account: Option<Account>,
    /// Where clients connect.
    pub listening: Listening,
    /// Where Prometheus does.
    pub metrics: Option<std::net::TcpListener>,
    /// Where operators do.
    pub admin: std::os::unix::net::UnixListener,
}

impl Front {
    /// Opens and looks up all of it. What a former daemon hands over is not opened anew.
    ///
    /// # Errors
    /// Names what the host refuses.
    pub fn open(model: &Model, former: Option<&mut Inheritance>) -> Result<Self, Error> {
        let cpus = sys::cpus().map_err(Error::system("cannot list this process's CPUs"))?;
        let workers = model.global.workers.unwrap_or(cpus.len());
        let account = account(model)?;
        network::check_links(model)?;
        let path = &model.global.admin;
        let (passed, metrics, admin) = match former {
            None => (systemd::sockets(model), None, None),
            Some(former) => {
                let told = former.state.sockets.iter().cloned();
                let passed = told.zip(former.sockets.drain(..)).collect();
                let is_same = former.state.metrics == model.global.metrics;
                let metrics = former.metrics.take().filter(|_| is_same);
                (passed, metrics, former.admin.take().filter(|_| former.state.admin == *path))
            }
        };
        let listening = Listening::open(model, workers, None, passed)?;
        let metrics = match (metrics, model.global.metrics) {
            (None, Some(address)) => Some(bind_metrics(address)?),
            (inherited, _) => inherited,
        };
        let admin = match admin {
            Some(inherited) => inherited,
            None => {
                bind_admin(path).map_err(|source| Error::Admin { path: path.clone(), source })?
            }
        };
        Ok(Self { cpus, workers, account, listening, metrics, admin })
    }
}

/// Who workers run as; `None` if this process is not root and can't choose.
fn account(model: &Model) -> Result<Option<Account>, Error> {
    if !sys::is_root() {
        return match &model.global.user {
            Some(user) => Err(Error::UserNeedsRoot(user.clone())),
            None => Ok(None),
        };
    }
    let look_up = |name: &str| sys::account(name).map_err(Error::system("cannot look users up"));
    match &model.global.user {
        Some(user) => look_up(user)?.map(Some).ok_or_else(|| Error::NoUser(user.clone())),
        None => match look_up("steerage")? {
            Some(account) => Ok(Some(account)),
            None => look_up("nobody")?.map(Some).ok_or_else(|| Error::NoUser("nobody".into())),
        },
    }
}

/// Opens the metrics address.
///
/// # Errors
/// If the host refuses it.
pub fn bind_metrics(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    let failed = |source| Error::Metrics { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
