//! Another configuration in a running daemon: nobody notices but those it concerns.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use steerage_lab::client::Connection;
use steerage_lab::daemon;
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::topology::{self, BALANCER, CLIENT_LINK};
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

/// A service whose backends are found dead soon, and probed often.
const SERVICE: &str = "balance = \"round_robin\"\n\
    probe = { kind = \"http\", path = \"/health\", interval = \"200ms\", timeout = \"150ms\" }\n";

/// A second listener.
fn other_l7() -> SocketAddr {
    SocketAddr::from((BALANCER, 8081))
}

/// What the configurations of one test differ in.
#[derive(Clone)]
struct Wanted {
    /// Numbers and weights.
    backends: Vec<(u8, u16)>,
    /// Where requests to `/who` are redirected to.
    route: &'static str,
    listener: bool,
    vip: bool,
    global: String,
}

impl Default for Wanted {
    fn default() -> Self {
        let backends = vec![(1, 1), (2, 1)];
        Self { backends, route: "/one", listener: false, vip: true, global: String::new() }
    }
}

impl Wanted {
    fn text(&self, stand: &Stand) -> String {
        let mut text = daemon::global(&stand.scratch);
        let _ = writeln!(text, "workers = 2\nwatch = false\n{}", self.global);
        let mut listener = |name: &str, address: SocketAddr| {
            let _ = write!(
                text,
                "[[listener]]\nname = \"{name}\"\nbind = [\"{address}\"]\nprotocol = \"http\"\n\
                 [[listener.route]]\npath = \"/who\"\n\
                 redirect = {{ to = \"{}\", status = 302 }}\n\
                 [[listener.route]]\nservice = \"app\"\nmax_body = \"off\"\n",
                self.route
            );
        };
        listener("web", l7());
        if self.listener {
            listener("other", other_l7());
        }
        if self.vip {
            let _ = write!(
                text,
                "[[vip]]\nname = \"app-tcp\"\naddress = \"{}\"\nprotocol = \"tcp\"\n\
                 mode = \"nat\"\ninterface = \"{CLIENT_LINK}\"\nservice = \"app\"\n",
                l4()
            );
        }
        let _ = write!(text, "[[service]]\nname = \"app\"\n{SERVICE}");
        for (number, weight) in &self.backends {
            let address = topology::backend_socket(*number);
            let _ =
                write!(text, "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
        text
    }
}

/// Four backends, of which the first two serve.
fn stand() -> Stand {
    let choices = Choices { weights: vec![1; 4], tcp_vip: true, ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    stand
}

fn backend(status: &Value, number: u8) -> Option<&Value> {
    let address = topology::backend_socket(number).to_string();
    status["services"][0]["backends"].as_array()?.iter().find(|b| b["address"] == address)
}

/// Whether the location in a head is this one, on the listener.
fn is_redirected(head: &str, route: &str) -> bool {
    head.contains(&format!("location: http://{}{route}\r\n", l7()))
}

fn failed(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|sample| sample.answer.is_err()).collect()
}

#[test]
fn fifty_reloads_under_load_lose_no_request_and_no_flow() {
    const RELOADS: usize = 50;
    let mut stand = stand();
    let workers = stand.daemon.workers().unwrap();
    let client = &stand.topology.client;
    let keeping: Vec<_> =
        (0..4).map(|_| Poller::start(client, l7(), Reuse::KeepAlive).unwrap()).collect();
    let fresh: Vec<_> =
        (0..2).map(|_| Poller::start(client, l7(), Reuse::Never).unwrap()).collect();
    let vip = Poller::start(client, l4(), Reuse::Never).unwrap();
    let flow = Poller::start(client, l4(), Reuse::KeepAlive).unwrap();
    // Longer than all that follows: it is read bit by bit.
    let mut download = stand.connect(l7()).unwrap();
    download.send(b"GET /bytes/268435456 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();

    let mut took = Vec::new();
    let mut refused = 0;
    let mut wanted = Wanted::default();
    for round in 0..RELOADS {
        match round % 10 {
            0 => wanted.backends = vec![(1, 1), (2, 1), (3, 1)],
            1 => wanted.backends = vec![(1, 5), (2, 1), (3, 2)],
            2 => wanted.backends = vec![(1, 5), (3, 2)],
            3 => wanted.listener = true,
            // All others at once.
            4 => wanted.backends = vec![(2, 1), (4, 1)],
            5 => wanted.route = if wanted.route == "/one" { "/two" } else { "/one" },
            6 => {
                let bad = wanted.text(&stand).replace("round_robin", "round_robbin");
                let said = stand.reconfigure(&bad).unwrap_err().to_string();
                assert!(said.contains("round_robbin") && said.contains("steerage.toml:"), "{said}");
                refused += 1;
                continue;
            }
            7 => wanted.listener = false,
            8 => wanted.global = format!("drain = \"{}s\"", 20 + round),
            _ => wanted.backends = vec![(1, 1), (2, 1)],
        }
        let answer = stand.reconfigure(&wanted.text(&stand)).unwrap();
        assert!(!answer["changes"].as_array().unwrap().is_empty(), "round {round}");
        took.push(answer["took_ms"].as_f64().unwrap());
        let place = stand.curl("/who", &["-i"]).unwrap();
        assert!(is_redirected(&place.text, wanted.route), "{}", place.text);
        assert_eq!(stand.connect(other_l7()).is_ok(), wanted.listener, "round {round}");
        let status = stand.daemon.status().unwrap();
        for (number, weight) in &wanted.backends {
            assert_eq!(backend(&status, *number).unwrap()["weight"], *weight, "round {round}");
        }
    }
    assert_eq!(stand.daemon.workers().unwrap(), workers, "no worker was started anew");
    let response = download.response().unwrap();
    assert_eq!((response.status, response.length), (200, 268_435_456));

    let mut count = 0;
    for poller in keeping {
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}", failed(&samples));
        assert!(!samples.iter().any(|sample| sample.again), "a keep-alive connection was closed");
        count += samples.len();
    }
    for poller in fresh.into_iter().chain([vip]) {
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}", failed(&samples));
        count += samples.len();
    }
    let flow = flow.stop();
    assert!(failed(&flow).is_empty(), "{:?}", failed(&flow));
    let first = flow[0].answer.clone();
    assert!(flow.iter().all(|sample| sample.answer == first && !sample.again), "the flow moved");
    took.sort_by(f64::total_cmp);
    println!(
        "{} reloads, {refused} refused files: 0 of {} requests lost; a reload took {:.1} ms \
         (median), {:.1} ms (longest)",
        took.len(),
        count + flow.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(stand.daemon.terminate().unwrap().success());
}

#[test]
fn a_removed_backend_finishes_what_it_has_and_comes_back_as_a_new_tenant() {
    let stand = stand();
    let before = stand.daemon.status().unwrap();
    let (slot, epoch) = {
        let first = backend(&before, 1).unwrap();
        (first["slot"].clone(), first["epoch"].as_u64().unwrap())
    };
    let mut flow = stand.connect_to(l4(), 1).unwrap();
    let mut upload = stand.connect_to(l7(), 2).unwrap();
    let head = b"POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    upload.send(head).unwrap();
    wait::for_condition("the upload to be under way", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        backend(&status, 1).unwrap()["l7"]["active"] == 1
    })
    .unwrap();

    let without = Wanted { backends: vec![(2, 1)], ..Wanted::default() };
    stand.reconfigure(&without.text(&stand)).unwrap();
    for _ in 0..20 {
        assert_eq!(stand.curl("/", &[]).unwrap().text.trim(), name(2));
        assert_eq!(stand.connect(l4()).unwrap().get("/").unwrap().text().trim(), name(2));
    }
    assert_eq!(flow.get("/").unwrap().text().trim(), name(1), "a flow stays");
    let address = topology::backend_socket(1).to_string();
    let leaving = wait::until("its flow to be counted", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        let leaving = status["leaving"].as_array().unwrap().clone();
        leaving.into_iter().find(|one| one["address"] == address && one["flows"].as_u64() > Some(0))
    })
    .unwrap();
    assert_eq!((&leaving["state"], &leaving["service"]), (&"leaving".into(), &"app".into()));
    assert_eq!(leaving["requests"], 1, "{leaving}");
    let list = stand.daemon.backend(&["list"]).unwrap();
    assert!(list.contains("1 requests, 1 connections"), "{list}");
    upload.send(b"0\r\n\r\n").unwrap();
    let answer = upload.response().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());

    // Wanted again while it leaves: the same tenant.
    stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    stand.daemon.wait_available(2).unwrap();
    let again = stand.daemon.status().unwrap();
    let first = backend(&again, 1).unwrap();
    assert_eq!((&first["slot"], first["epoch"].as_u64().unwrap()), (&slot, epoch));
    assert_eq!(flow.get("/").unwrap().text().trim(), name(1), "a flow stays");

    stand.reconfigure(&without.text(&stand)).unwrap();
    drop(flow);
    let done = "removed backend has finished";
    wait::for_condition("the backend to have finished", PATIENCE, || {
        stand.daemon.log().contains(done)
    })
    .unwrap();
    wait::for_condition("it to be listed no more", PATIENCE, || {
        stand.daemon.status().unwrap()["leaving"] == serde_json::json!([])
    })
    .unwrap();
    stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    stand.daemon.wait_available(2).unwrap();
    let later = stand.daemon.status().unwrap();
    let first = backend(&later, 1).unwrap();
    assert_eq!((&first["slot"], first["epoch"].as_u64().unwrap()), (&slot, epoch + 1));
    assert_eq!(first["l7"]["connections_created"], 0, "its counters begin anew");
}

#[test]
fn a_removed_listener_answers_what_it_has_and_closes() {
    let stand = stand();
    let with = Wanted { listener: true, ..Wanted::default() };
    stand.reconfigure(&with.text(&stand)).unwrap();
    let mut idle = stand.connect(other_l7()).unwrap();
    assert_eq!(idle.get("/").unwrap().status, 200);
    let mut silent = stand.connect(other_l7()).unwrap();
    assert_eq!(silent.get("/").unwrap().status, 200);
    let mut slow = stand.connect(other_l7()).unwrap();
    slow.send(b"GET /delay/1000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let busy = || {
        let status = stand.daemon.status().unwrap();
        (1..=2).any(|number| backend(&status, number).unwrap()["l7"]["active"] == 1)
    };
    wait::for_condition("the request to be under way", PATIENCE, busy).unwrap();
    stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    assert!(stand.connect(other_l7()).is_err(), "new connections are refused");
    let last = idle.get("/").unwrap();
    assert!(last.head.closes(), "a request that was on its way is the last: {:?}", last.head);
    let end = silent.into_stream().read(&mut [0]).unwrap();
    assert_eq!(end, 0, "an idle connection is closed");
    let answer = slow.response().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.head.closes(), "{:?}", answer.head);
}

#[test]
fn what_can_not_be_changed_in_a_running_daemon_is_said_and_the_rest_is_done() {
    let stand = stand();
    let wanted = Wanted { route: "/two", ..Wanted::default() };
    let text = wanted.text(&stand).replace("workers = 2", "workers = 3");
    stand.write_config(&text).unwrap();
    let mut command = std::process::Command::new(daemon::binary().unwrap());
    let diff = command.args(["config", "diff", "-c"]).arg(&stand.config);
    let diff = steerage_lab::command::output(diff).unwrap();
    assert!(diff.contains("~ global.workers: 2 -> 3 (needs a restart)"), "{diff}");
    let before = stand.curl("/who", &["-i"]).unwrap();
    assert!(is_redirected(&before.text, "/one"), "a diff changes nothing: {}", before.text);
    let answer = stand.reload().unwrap();
    let changes = answer["changes"].as_array().unwrap();
    assert!(changes.iter().any(|change| change["needs_restart"] == true), "{answer}");
    assert_eq!(stand.daemon.workers().unwrap().len(), 2);
    assert!(is_redirected(&stand.curl("/who", &["-i"]).unwrap().text, "/two"));
    // It is said until it is done.
    let again = stand.reload().unwrap();
    assert_eq!(again["changes"].as_array().unwrap().len(), 1, "{again}");

    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = stand
        .topology
        .balancer
        .enter(|| std::net::TcpListener::bind(other_l7()))
        .unwrap()
        .map(|listener| (listener, occupied))
        .unwrap();
    let taken = Wanted { listener: true, route: "/three", ..Wanted::default() };
    let said = stand.reconfigure(&taken.text(&stand)).unwrap_err().to_string();
    assert!(said.contains("\"other\"") && said.contains("another process"), "{said}");
    assert!(is_redirected(&stand.curl("/who", &["-i"]).unwrap().text, "/two"));
    drop(occupied);
}

#[test]
fn a_daemon_that_ends_takes_no_other_configuration() {
    let mut stand = stand();
    let mut slow = stand.connect(l7()).unwrap();
    slow.send(b"GET /delay/1500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait::for_condition("the request to be under way", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        (1..=2).any(|number| backend(&status, number).unwrap()["l7"]["active"] == 1)
    })
    .unwrap();
    stand.daemon.process().signal(Signal::TERM).unwrap();
    wait::for_condition("new connections to be refused", PATIENCE, || stand.connect(l7()).is_err())
        .unwrap();
    let with = Wanted { listener: true, ..Wanted::default() };
    let said = stand.reconfigure(&with.text(&stand)).unwrap_err().to_string();
    assert!(said.contains("about to end"), "{said}");
    assert!(stand.connect(other_l7()).is_err());
    assert_eq!(slow.response().unwrap().status, 200);
    assert!(stand.daemon.process().wait(PATIENCE).unwrap().success());
}

#[test]
fn vips_come_and_go_and_the_others_notice_nothing() {
    let stand = stand();
    let second = SocketAddr::from((std::net::Ipv4Addr::new(192, 0, 2, 11), 80));
    let with = Wanted::default().text(&stand)
        + &format!(
            "[[vip]]\nname = \"second\"\naddress = \"{second}\"\nprotocol = \"tcp\"\n\
             mode = \"nat\"\ninterface = \"{CLIENT_LINK}\"\nservice = \"app\"\n"
        );
    let flow = Poller::start(&stand.topology.client, l4(), Reuse::KeepAlive).unwrap();
    let new = Poller::start(&stand.topology.client, l4(), Reuse::Never).unwrap();
    let answers = |address| {
        let client = &stand.topology.client;
        let open = || Connection::open_here(address, Duration::from_millis(500));
        client.enter(|| open().and_then(|mut open| open.get("/"))).unwrap().is_ok()
    };
    for _ in 0..3 {
        assert!(!answers(second));
        stand.reconfigure(&with).unwrap();
        for _ in 0..10 {
            assert!(answers(second));
        }
        stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    }
    // Other backends for the rings of both halves.
    for backends in [vec![(3, 1)], vec![(3, 1), (4, 1)], vec![(1, 3), (4, 1)]] {
        let wanted = Wanted { backends: backends.clone(), ..Wanted::default() };
        stand.reconfigure(&wanted.text(&stand)).unwrap();
        let names: Vec<String> = backends.iter().map(|(number, _)| name(*number)).collect();
        for _ in 0..20 {
            let answer = stand.connect(l4()).unwrap().get("/").unwrap().text();
            assert!(names.contains(&answer.trim().to_owned()), "{answer} is none of {names:?}");
        }
    }
    for poller in [flow, new] {
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}", failed(&samples));
    }
}

#[test]
fn a_daemon_that_had_no_vip_gets_its_first_one_and_l7_notices_nothing() {
    let choices = Choices { weights: vec![1, 1], ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    let requests = [Reuse::KeepAlive, Reuse::Never]
        .map(|reuse| Poller::start(&stand.topology.client, l7(), reuse).unwrap());
    let without = fs::read_to_string(&stand.config).unwrap();
    for _ in 0..2 {
        stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
        let mut flow = stand.connect(l4()).unwrap();
        for _ in 0..10 {
            assert_eq!(flow.get("/").unwrap().status, 200);
            assert_eq!(stand.connect(l4()).unwrap().get("/").unwrap().status, 200);
        }
        // It has tables that hold as many flows as a daemon's that had a vip from the start.
        let map = stand.pins().join(format!("v{}/FLOWS", steerage_common::abi::SCHEMA_VERSION));
        let flows = aya::maps::MapData::from_pin(map).unwrap();
        assert!(flows.info().unwrap().max_entries() >= 262_144);
        drop(flow);
        stand.reconfigure(&without).unwrap();
    }
    // What the new programs ask for is heard: a next hop that nobody knows is resolved.
    stand.reconfigure(&Wanted::default().text(&stand)).unwrap();
    let mut flush = stand.topology.balancer.command("ip");
    steerage_lab::command::output(flush.args(["neigh", "flush", "all"])).unwrap();
    assert_eq!(stand.connect(l4()).unwrap().get("/").unwrap().status, 200);
    // The next daemon takes over what this one made.
    let flow = Poller::start(&stand.topology.client, l4(), Reuse::KeepAlive).unwrap();
    stand.daemon.upgrade(None).unwrap();
    let after = Instant::now();
    wait::for_condition("flows to go on", PATIENCE, || flow.since(after).len() > 50).unwrap();
    for poller in requests.into_iter().chain([flow]) {
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}\n{}", failed(&samples), stand.daemon.log());
    }
}

#[test]
fn without_ebpf_the_first_vip_is_refused_and_the_rest_goes_on() {
    let choices =
        Choices { weights: vec![1, 1], global: "bpf_dir = \"/tmp\"", ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let vip =
        Wanted::default().text(&stand).replace("[global]\n", "[global]\nbpf_dir = \"/tmp\"\n");
    let said = stand.reconfigure(&vip).unwrap_err().to_string();
    assert!(said.contains("\"app-tcp\"") && said.contains("was started without eBPF"), "{said}");
    assert_eq!(stand.curl("/who", &[]).unwrap().status, 200, "nothing was changed");
}

#[test]
fn the_metrics_address_moves_and_ends_and_comes_back() {
    let mut stand = stand();
    let text = fs::read_to_string(&stand.config).unwrap();
    let at = |address: &str| text.replace("\"127.0.0.1:9900\"", &format!("\"{address}\""));
    let is_served = |stand: &Stand, port: u16| {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let curl = steerage_lab::client::curl(&stand.topology.balancer, &[&url]).unwrap();
        curl.status == 200 && curl.text.contains("steerage_")
    };
    assert!(is_served(&stand, 9900));
    stand.reconfigure(&at("127.0.0.1:9901")).unwrap();
    assert_eq!((is_served(&stand, 9901), is_served(&stand, 9900)), (true, false));
    // The daemon that follows gets the one in force.
    stand.daemon.upgrade(None).unwrap();
    assert_eq!((is_served(&stand, 9901), is_served(&stand, 9900)), (true, false));
    stand.reconfigure(&at("off")).unwrap();
    assert!(!is_served(&stand, 9901));
    let busy = stand.topology.balancer.enter(|| std::net::TcpListener::bind("127.0.0.1:9902"));
    let said = stand.reconfigure(&at("127.0.0.1:9902")).unwrap_err().to_string();
    assert!(said.contains("global.metrics: cannot bind 127.0.0.1:9902"), "{said}");
    drop(busy);
    stand.reconfigure(&text).unwrap();
    assert!(is_served(&stand, 9900));
}

#[test]
fn the_file_is_followed_however_it_is_changed() {
    let stand = stand();
    let text = |route: &'static str| {
        let wanted = Wanted { route, ..Wanted::default() };
        wanted.text(&stand).replace("watch = false", "watch = true")
    };
    let in_force = |route: &str| {
        wait::for_condition(format!("{route} to be in force"), PATIENCE, || {
            is_redirected(&stand.curl("/who", &["-i"]).unwrap().text, route)
        })
        .unwrap();
    };
    stand.reconfigure(&text("/one")).unwrap();
    stand.write_config(&text("/renamed")).unwrap();
    in_force("/renamed");
    fs::write(&stand.config, text("/written")).unwrap();
    in_force("/written");

    fs::write(&stand.config, "[global]\nworkers = true\n").unwrap();
    wait::for_condition("the mistake to be told", PATIENCE, || {
        stand.daemon.log().contains("steerage.toml:2:11: workers:")
    })
    .unwrap();
    in_force("/written");
    // Where the command line finds the daemon.
    fs::write(&stand.config, text("/mended")).unwrap();
    in_force("/mended");

    // As a mounted ConfigMap: a link to a link that is turned over.
    let turn = |version: &str, route: &'static str| {
        let directory = stand.scratch.join(version);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("steerage.toml"), text(route)).unwrap();
        let link = stand.scratch.join("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(link, stand.scratch.join("..data")).unwrap();
    };
    turn("..first", "/mapped");
    let link = stand.scratch.join("link");
    symlink("..data/steerage.toml", &link).unwrap();
    fs::rename(link, &stand.config).unwrap();
    in_force("/mapped");
    turn("..second", "/turned");
    in_force("/turned");

    let other = text("/by-signal").replace("watch = true", "watch = false");
    stand.reconfigure(&other).unwrap();
    stand.write_config(&other.replace("/by-signal", "/hangup")).unwrap();
    rustix::process::kill_process(
        steerage_lab::process::pid(stand.daemon.pid()).unwrap(),
        Signal::HUP,
    )
    .unwrap();
    in_force("/hangup");
}

/// From the write of a file to the first answer under it.
#[test]
fn what_a_reload_costs_with_up_to_4096_backends() {
    let stand = stand();
    println!(
        "backends | publish µs | reload ms | file written → in effect ms | longest request ms"
    );
    for count in [10_usize, 1_000, 4_000] {
        let mut text = Wanted { vip: false, ..Wanted::default() }.text(&stand);
        text.push_str("[[service]]\nname = \"many\"\n");
        for number in 0..count {
            let (high, low) = (number / 250, number % 250 + 1);
            let _ = writeln!(text, "[[service.backend]]\naddress = \"10.99.{high}.{low}:80\"");
        }
        stand.reconfigure(&text).unwrap();
        let poller = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
        let (mut publish, mut took, mut effect) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..5 {
            let route = ["/a", "/b", "/c", "/d", "/e"][round];
            // One backend of the many is another one each time, and the route.
            let changed = text
                .replace("10.99.0.1:80", &format!("10.98.0.{}:80", round + 1))
                .replace("to = \"/one\"", &format!("to = \"{route}\""));
            let mut asking = stand.connect(l7()).unwrap();
            let began = Instant::now();
            let answer = std::thread::scope(|scope| {
                let reload = scope.spawn(|| stand.reconfigure(&changed).unwrap());
                let place = format!("http://{}{route}", l7());
                wait::for_condition("the route to be in force", PATIENCE, || {
                    asking.get("/who").unwrap().head.header("location") == Some(&place)
                })
                .unwrap();
                effect.push(began.elapsed().as_secs_f64() * 1e3);
                reload.join().unwrap()
            });
            publish.push(answer["publish_us"].as_f64().unwrap());
            took.push(answer["took_ms"].as_f64().unwrap());
        }
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}", failed(&samples));
        let gaps = samples.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64() * 1e3);
        let median = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        println!(
            "{count:>8} | {:>10.0} | {:>9.1} | {:>27.1} | {:>18.1}",
            median(publish),
            median(took),
            median(effect),
            gaps.fold(0.0, f64::max)
        );
    }
}
