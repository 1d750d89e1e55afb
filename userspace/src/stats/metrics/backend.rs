//! Services, their backends, and vips.

use super::family::{Described, Metric, Read, describe, metrics};
use super::page::{Page, Subject};
use crate::stats::status::{Backend, Service, Status, Vip};

const SERVICE: &[Metric<Service>] = metrics![
    "steerage_service_available_backends" Gauge Read::Whole(|s| s.available as u64),
        "Backends that take new work.";
    "steerage_service_panicking" Gauge Read::Whole(|s| s.panicking.into()),
        "1 if health is ignored because too few backends are left.";
];

const BACKEND_LABELS: &[&str] = &["service", "backend"];

const BACKEND: &[Metric<Backend>] = metrics![
    "steerage_backend_up" Gauge Read::Whole(|b| b.accepts_new.into()),
        "1 if the backend takes new work.";
    "steerage_backend_state" Gauge Read::Label("state", |b| &b.state),
        "1, with the state that the backend is in.";
    "steerage_backend_weight" Gauge Read::Whole(|b| b.weight.into()),
        "The configured weight.";
    "steerage_backend_probes_total" Counter
        Read::Named("result", |b| {
            b.probe.iter().flat_map(|p| [("ok", p.ok), ("failed", p.failed)]).collect()
        }),
        "Probes, of all services that share them.";
    "steerage_backend_probe_seconds" Gauge
        Read::Real(|b| b.probe.as_ref().map(|probe| probe.seconds)),
        "How long the latest probe took.";
    "steerage_backend_ejections_total" Counter Read::Whole(|b| b.l7.ejections),
        "Ejections after failed requests.";
    "steerage_backend_active_requests" Gauge Read::Whole(|b| b.l7.active),
        "Requests in flight, and connections passed on.";
    "steerage_backend_responses_total" Counter Read::Each("class", |b| &b.l7.responses),
        "Responses by status class.";
    "steerage_backend_failures_total" Counter Read::Each("class", |b| &b.l7.failures),
        "Failed attempts.";
    "steerage_backend_replays_total" Counter Read::Sparse("rule", |b| &b.l7.replays),
        "Requests that were sent again, by the rule that allows it; stale_proven are stale connections.";
    "steerage_backend_replays_refused_total" Counter Read::Sparse("reason", |b| &b.l7.refusals),
        "Requests that were not sent again, by why.";
    "steerage_backend_connections" Gauge Read::Whole(|b| b.l7.connections),
        "Open connections, idle or in use.";
    "steerage_backend_pool_idle" Gauge Read::Whole(|b| b.l7.idle),
        "Idle connections in the pools.";
    "steerage_backend_tunnels" Gauge Read::Whole(|b| b.l7.tunnels),
        "Open tunnels, and connections passed on.";
    "steerage_backend_connections_created_total" Counter
        Read::Whole(|b| b.l7.connections_created),
        "Connections opened.";
    "steerage_backend_connections_reused_total" Counter Read::Whole(|b| b.l7.connections_reused),
        "Requests on a connection that had carried one before.";
    "steerage_backend_connections_ended_total" Counter Read::Sparse("cause", |b| &b.l7.ends),
        "Connections that ended.";
    "steerage_backend_tls_handshakes_total" Counter Read::Sparse("kind", |b| &b.l7.handshakes),
        "TLS handshakes; those of probes are not among them.";
    "steerage_backend_request_body_bytes_total" Counter
        Read::Whole(|b| b.l7.request_body_bytes),
        "Bytes to the backend: of request bodies, tunnels and streams.";
    "steerage_backend_response_body_bytes_total" Counter
        Read::Whole(|b| b.l7.response_body_bytes),
        "Bytes from the backend.";
    "steerage_backend_queue_seconds" Histogram Read::Latency(|b| &b.l7.queue),
        "Waits in line of requests and connections that stood in line before they went to the backend.";
    "steerage_backend_connect_seconds" Histogram Read::Latency(|b| &b.l7.connect),
        "Connections that were made, with TLS.";
    "steerage_backend_first_byte_seconds" Histogram Read::Latency(|b| &b.l7.first_byte),
        "Requests' going out to the beginning of their response.";
    "steerage_backend_request_seconds" Histogram Read::Latency(|b| &b.l7.total),
        "Requests that the backend answered, from their coming to the end of the response.";
    "steerage_backend_l4_in_packets_total" Counter Read::Whole(|b| b.l4.in_packets),
        "L4 packets from clients.";
    "steerage_backend_l4_in_bytes_total" Counter Read::Whole(|b| b.l4.in_bytes),
        "L4 bytes from clients.";
    "steerage_backend_l4_out_packets_total" Counter Read::Whole(|b| b.l4.out_packets),
        "L4 packets from the backend that came back this way.";
    "steerage_backend_l4_out_bytes_total" Counter Read::Whole(|b| b.l4.out_bytes),
        "L4 bytes from the backend that came back this way.";
    "steerage_backend_l4_flows_total" Counter Read::Whole(|b| b.l4.flows),
        "L4 flows begun.";
    "steerage_backend_l4_remembered_total" Counter Read::Whole(|b| b.l4.remembered),
        "L4 flows entered into the flow table.";
];

const VIP: &[Metric<Vip>] = metrics![
    "steerage_vip_in_packets_total" Counter Read::Whole(|v| v.l4.in_packets),
        "Packets from clients.";
    "steerage_vip_in_bytes_total" Counter Read::Whole(|v| v.l4.in_bytes),
        "Bytes from clients.";
    "steerage_vip_out_packets_total" Counter Read::Whole(|v| v.l4.out_packets),
        "Packets from backends that came back this way.";
    "steerage_vip_out_bytes_total" Counter Read::Whole(|v| v.l4.out_bytes),
        "Bytes from backends that came back this way.";
    "steerage_vip_flows_total" Counter Read::Whole(|v| v.l4.flows),
        "Flows begun.";
    "steerage_vip_remembered_total" Counter Read::Whole(|v| v.l4.remembered),
        "Flows entered into the flow table.";
    "steerage_vip_table_misses_total" Counter Read::Whole(|v| v.l4.misses),
        "Packets whose flow the flow table was asked for in vain.";
];

const L4: &[Metric<Status>] = metrics![
    "steerage_l4_reasons_total" Counter Read::Each("reason", |s| &s.l4_reasons),
        "L4 packets of all vips by what became of them, but for plain forwards: drops by why among them.";
];

pub(super) fn write(page: &mut Page, status: &Status) {
    let services = status.services.iter();
    let services = services.map(|service| Subject::new(service, &[("service", &service.name)]));
    page.group(SERVICE, &services.collect::<Vec<_>>());
    let backends = status.services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| {
            let address = backend.address.to_string();
            Subject::new(backend, &[("service", &service.name), ("backend", &address)])
        })
    });
    page.group(BACKEND, &backends.collect::<Vec<_>>());
    let vips: Vec<_> =
        status.vips.iter().map(|vip| Subject::new(vip, &[("vip", &vip.name)])).collect();
    page.group(VIP, &vips);
    page.group(L4, &[Subject::new(status, &[])]);
}

pub(super) fn families() -> Vec<Described> {
    let backends = describe(BACKEND_LABELS, BACKEND);
    [describe(&["service"], SERVICE), backends, describe(&["vip"], VIP), describe(&[], L4)].concat()
}
