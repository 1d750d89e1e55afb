//! Directives without a counterpart, and what to do instead.

use super::token::Directive;
use crate::import::draft::Table;
use crate::import::remark::{Remark, Weight};

/// Says of each directive of a block that is not translated what becomes of it.
pub fn remark_others(block: &[Directive], translated: &[&str], table: &mut Table) {
    for directive in block {
        if !translated.contains(&directive.name()) {
            let (weight, why) = reason(directive);
            table.remark(Remark::new(&directive.place, &directive.all(), weight, why));
        }
    }
}

fn reason(directive: &Directive) -> (Weight, &'static str) {
    let name = directive.name();
    unneeded(name).map_or_else(|| left_out(name), |why| (Weight::Unneeded, why))
}

/// Why nobody misses it.
fn unneeded(name: &str) -> Option<&'static str> {
    Some(match name {
        "sendfile"
        | "tcp_nopush"
        | "tcp_nodelay"
        | "multi_accept"
        | "use"
        | "accept_mutex"
        | "worker_rlimit_nofile"
        | "worker_cpu_affinity"
        | "reset_timedout_connection" => "workers see to this themselves",
        "types"
        | "default_type"
        | "types_hash_max_size"
        | "charset"
        | "server_tokens"
        | "server_names_hash_bucket_size"
        | "server_names_hash_max_size"
        | "pid"
        | "daemon"
        | "master_process"
        | "load_module"
        | "events"
        | "zone"
        | "proxy_http_version"
        | "proxy_headers_hash_max_size"
        | "proxy_headers_hash_bucket_size"
        | "log_format"
        | "variables_hash_max_size"
        | "map_hash_bucket_size"
        | "error_log"
        | "log_not_found"
        | "log_subrequest"
        | "absolute_redirect"
        | "port_in_redirect"
        | "server_name_in_redirect" => "it has no meaning here",
        _ if name.starts_with("proxy_buffer")
            || name.ends_with("_temp_path")
            || name == "proxy_request_buffering"
            || name.starts_with("client_body_buffer")
            || name == "proxy_busy_buffers_size"
            || name.starts_with("proxy_max_temp") =>
        {
            "bodies are passed on as they come, and never held"
        }
        _ if name.starts_with("ssl_session") || name == "ssl_buffer_size" => {
            "sessions are resumed on every worker, by tickets: docs/tls.md"
        }
        _ => return None,
    })
}

/// Why it has no effect, and what to do instead.
fn left_out(name: &str) -> (Weight, &'static str) {
    let why = match name {
        "ssl_ciphers"
        | "ssl_prefer_server_ciphers"
        | "ssl_ecdh_curve"
        | "ssl_dhparam"
        | "ssl_conf_command"
        | "proxy_ssl_ciphers" => "the suites are those of rustls, all of which are safe",
        _ if name.starts_with("ssl_stapling") => {
            "staples come from a file: certificates = [{ ..., ocsp = \"FILE\" }]"
        }
        _ if name.starts_with("gzip") || name.starts_with("brotli") => {
            "nothing is compressed here; have the backend do it"
        }
        _ if name.starts_with("proxy_cache") || name.starts_with("open_file_cache") => {
            "there is no cache here; put one behind a service"
        }
        _ if name.starts_with("limit_req") => {
            "requests are not limited by rate; [guard] limits packets and SYNs: docs/l4.md"
        }
        _ if name.starts_with("limit_conn") => "see limits.connections_per_address of the listener",
        _ if name.starts_with("auth_") => {
            "nobody is asked for a password here; have the backend do it"
        }
        "allow" | "deny" => {
            "addresses are refused by [listener.guard] (its interface named), not by location; \
             until then those that are named here are LET THROUGH"
        }
        "root" | "alias" | "index" | "try_files" | "autoindex" | "expires" | "etag" => {
            "files are not served here; have a file server as a service"
        }
        "if" => "conditions are those of routes: host, path, method, headers",
        "map" | "set" | "geo" | "split_clients" => {
            "there are no variables here; write the routes out"
        }
        "location" => "write nested locations beside one another",
        "error_page" => "see error_pages, for answers of Steerage's own",
        "proxy_cookie_path" | "proxy_cookie_domain" | "proxy_cookie_flags" | "sub_filter" => {
            "what backends answer is not rewritten; have the backend do it"
        }
        "proxy_redirect" => "Location is passed on as it is; have backends see the client's Host",
        "mirror" => "requests are not copied",
        "resolver" | "resolver_timeout" => {
            "names are asked of /etc/resolv.conf's servers; see discover.servers"
        }
        "mail" => "mail is not spoken here; a tcp listener passes it on",
        _ => "there is no counterpart",
    };
    (Weight::LeftOut, why)
}
