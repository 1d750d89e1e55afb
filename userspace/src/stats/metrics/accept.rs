//! Which format a scraper wants (RFC 9110, 12.5.1).

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text, 0.0.4.
    Text,
    /// OpenMetrics, 1.0.
    OpenMetrics,
}

impl Format {
    /// What a request's `Accept` asks for: OpenMetrics if it is named and not wanted less than text.
    #[must_use]
    pub fn of(accept: Option<&str>) -> Self {
        let weight = |wanted: &dyn Fn(&str) -> bool| {
            let ranges = accept.unwrap_or_default().split(',');
            ranges.filter_map(|range| weight(range, wanted)).max().unwrap_or(0)
        };
        let open = weight(&|kind| kind == "application/openmetrics-text");
        let text = weight(&|kind| kind == "text/plain");
        if open > 0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// How much a range is wanted, of 1000, if it is of such a kind and of a version that there is.
fn weight(range: &str, is_wanted: &dyn Fn(&str) -> bool) -> Option<u16> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?.to_ascii_lowercase();
    let mut weight = 1000;
    for part in parts {
        match part.split_once('=') {
            Some((name, q)) if name.trim().eq_ignore_ascii_case("q") => {
                weight = (q.trim().parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16;
            }
            Some(("version", version))
                if !["1.0.0", "0.0.4"].contains(&version.trim_matches('"')) =>
            {
                return None;
            }
            _ => {}
        }
    }
    is_wanted(&kind).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_what_it_prefers() {
        let of = |accept| Format::of(Some(accept));
        assert_eq!(Format::of(None), Format::Text);
        for text in [
            "",
            "*/*",
            "text/html, text/plain;q=0.9",
            "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.4, text/plain;q=0.5",
            "application/openmetrics-text;q=x",
            ";;=,q=1;",
        ] {
            assert_eq!(of(text), Format::Text, "{text}");
        }
        for open in [
            // What Prometheus 2.42 and 3 send.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "Application/OpenMetrics-Text",
            "application/openmetrics-text; version=\"1.0.0\"; charset=utf-8",
        ] {
            assert_eq!(of(open), Format::OpenMetrics, "{open}");
        }
    }
}
