//! A backend's place that a request or a connection takes: counted until it is given back.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Target;
use crate::region::add;

/// One of the requests, or passed-on connections, that a backend has.
#[derive(Debug)]
pub(crate) struct Hold {
    target: Rc<Target>,
    backend: usize,
}

impl Hold {
    /// `None` if the backend has as many as it may.
    pub(crate) fn begin(target: &Rc<Target>, backend: usize) -> Option<Self> {
        if !target.service.begin(backend) {
            return None;
        }
        add(&target.service.worker_line().active_requests, 1);
        Some(Self { target: target.clone(), backend })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn backend(&self) -> usize {
        self.backend
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let target = &self.target;
        target.service.end(self.backend);
        target.queue.call();
        let all = &target.service.worker_line().active_requests;
        all.store(all.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}
