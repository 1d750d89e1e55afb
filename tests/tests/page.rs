//! The page on the metrics address, in a browser: it shows what is, live, as text; and takes orders from
//! whoever has the token, if there is one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use steerage_lab::{command, topology};
use steerage_tests::python;
use steerage_tests::stand::{Choices, Stand};

/// Where [`steerage_lab::daemon::global`] has metrics served.
const PAGE: &str = "http://127.0.0.1:9900/";

/// Runs the browser on the balancer's host.
fn browse(stand: &Stand, arguments: &[&str]) {
    let mut command = stand.topology.balancer.command(python::interpreter());
    command.arg(python::client("page.py")).args(arguments);
    let output = command::finish(&mut command).unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success() && out.contains("all good"), "{out}\n{error}");
}

/// Names that would do something if they became markup are shown as they are written, figures move without a
/// reload, nothing is loaded from elsewhere, and it fits a phone.
#[test]
fn it_shows_everything_live_as_text_and_offers_no_orders() {
    let hostile = "<img src=x onerror='window.harmed=1'>";
    let more = format!(
        "\n[[service]]\nname = \"{hostile}\"\nprobe = {{ kind = \"tcp\" }}\n\
         [[service.backend]]\naddress = \"{}\"\n",
        topology::backend_socket(9),
    );
    let choices = Choices { weights: vec![1, 1], tcp_vip: true, more, ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let pictures = stand.scratch.join("pictures");
    fs::create_dir(&pictures).unwrap();
    let first = topology::backend_socket(1).to_string();
    let shown = [hostile, &first, "app-tcp", "Not serving", "Workers"];
    browse(&stand, &[&["look", PAGE, pictures.to_str().unwrap()], &shown[..]].concat());
    for name in ["light.png", "dark.png", "phone.png"] {
        assert!(fs::metadata(pictures.join(name)).unwrap().len() > 10_000, "{name}");
    }
}

#[test]
fn it_takes_orders_from_whoever_has_the_token_once_there_is_one() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let stand = Stand::start(&Choices::default()).unwrap();
    let token = stand.scratch.write("token", TOKEN).unwrap();
    let text = fs::read_to_string(&stand.config).unwrap();
    let key = format!("[global]\npage_token = \"{}\"\n", token.display());
    stand.reconfigure(&text.replacen("[global]\n", &key, 1)).unwrap();
    let backend = topology::backend_socket(2).to_string();
    browse(&stand, &["order", PAGE, TOKEN, &backend]);
    let status = stand.daemon.status().unwrap();
    let ordered = &status["services"][0]["backends"][1];
    assert_eq!((&ordered["state"], &ordered["weight"]), (&"up".into(), &7.into()), "{ordered}");
    assert_eq!(fs::read_to_string(&stand.config).unwrap().matches("weight = 7").count(), 0);
}
