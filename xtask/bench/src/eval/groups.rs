//! Who is shown beside whom, and what was published of it: *Roadrunner: Accelerating Data Delivery to WebAssembly-Based
//! Serverless Functions*, Middleware 2025; the figures of the prototype's own CSV files, on other machines than this one.

/// A curve: pairs of megabytes, or receivers, and seconds.
type Curve = (&'static str, &'static [(f64, f64)]);

/// Candidates that belong into one picture.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// In the order in which they are drawn.
    pub(crate) candidates: &'static [&'static str],
    /// Total latency: of whole rounds, and with no more than what the functions do there.
    pub(crate) published: &'static [Curve],
    /// Megabytes at payloads of 500 MB.
    pub(crate) published_memory: &'static [(&'static str, f64)],
}

const USER: Curve = (
    "user",
    &[
        (1.0, 0.0027),
        (10.0, 0.0197),
        (60.0, 0.1336),
        (100.0, 0.2297),
        (200.0, 0.4589),
        (500.0, 1.0993),
    ],
);
const KERNEL: Curve = (
    "kernel",
    &[
        (1.0, 0.1728),
        (10.0, 0.1995),
        (60.0, 0.3600),
        (100.0, 0.4825),
        (200.0, 0.7983),
        (500.0, 1.6415),
    ],
);
const CONTAINER: Curve = (
    "container HTTP",
    &[
        (1.0, 0.0137),
        (10.0, 0.0378),
        (60.0, 0.2325),
        (100.0, 0.3233),
        (200.0, 0.6590),
        (500.0, 1.8867),
    ],
);
const WASMEDGE: Curve = (
    "WasmEdge HTTP",
    &[
        (1.0, 0.0205),
        (10.0, 0.2114),
        (60.0, 1.2341),
        (100.0, 2.0300),
        (200.0, 3.9961),
        (500.0, 9.7879),
    ],
);
/// Between two hosts, with about 1 Gbit/s.
const NETWORK: Curve = (
    "network, 1 Gbit/s",
    &[
        (1.0, 0.0158),
        (10.0, 0.1109),
        (100.0, 1.0968),
        (500.0, 5.4034),
    ],
);
const FAR_WASMEDGE: Curve = (
    "WasmEdge, 1 Gbit/s",
    &[
        (1.0, 0.0313),
        (10.0, 0.2941),
        (100.0, 2.8465),
        (500.0, 14.0123),
    ],
);

/// What a reader sees first.
pub(crate) const SUMMARY: Group = Group {
    name: "summary",
    title: "From function to function",
    candidates: &[
        "user-loaned",
        "kernel-loaned",
        "network",
        "native-unix",
        "native-http",
        "prototype-user",
        "wasmedge-http-raw",
        "wasmedge-http-json",
    ],
    published: &[USER, WASMEDGE],
    published_memory: &[],
};

pub(crate) const GROUPS: [Group; 3] = [
    Group {
        name: "user",
        title: "In one process",
        candidates: &[
            "user-loaned",
            "user",
            "user-trusted",
            "prototype-user",
            "host-copy",
            "memcpy",
            "wasmedge-http-raw",
            "wasmedge-http-json",
        ],
        published: &[USER, WASMEDGE],
        published_memory: &[("user", 940.0), ("WasmEdge HTTP", 1652.0)],
    },
    Group {
        name: "kernel",
        title: "Between processes of one host",
        candidates: &[
            "kernel-loaned",
            "kernel",
            "kernel-trusted",
            "prototype-kernel",
            "native-unix",
            "redis",
            "wasmedge-http-raw",
            "wasmedge-http-json",
        ],
        published: &[KERNEL, CONTAINER, WASMEDGE],
        published_memory: &[
            ("kernel", 947.0),
            ("container HTTP", 430.0),
            ("WasmEdge HTTP", 1652.0),
        ],
    },
    Group {
        name: "network",
        title: "Over TCP",
        candidates: &[
            "network-loaned",
            "network",
            "native-tcp",
            "prototype-network",
            "native-http",
            "wasmedge-http-raw",
            "wasmedge-http-json",
        ],
        published: &[NETWORK, FAR_WASMEDGE],
        published_memory: &[("network, 1 Gbit/s", 555.0), ("WasmEdge, 1 Gbit/s", 742.0)],
    },
];

/// Mean latency on one host, 10 MB for each receiver.
pub(crate) const FANOUT_LATENCY: [Curve; 4] = [
    (
        "user",
        &[
            (1.0, 0.0060),
            (20.0, 0.0048),
            (60.0, 0.0038),
            (100.0, 0.0037),
        ],
    ),
    (
        "kernel",
        &[
            (1.0, 0.0574),
            (20.0, 0.0545),
            (60.0, 0.0552),
            (100.0, 0.0540),
        ],
    ),
    (
        "container HTTP",
        &[
            (1.0, 0.0141),
            (20.0, 0.0158),
            (60.0, 0.0139),
            (100.0, 0.0114),
        ],
    ),
    (
        "WasmEdge HTTP",
        &[
            (1.0, 0.2391),
            (20.0, 0.2209),
            (60.0, 0.2202),
            (100.0, 0.2196),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_curves_go_from_left_to_right() {
        let groups = GROUPS.iter().chain([&SUMMARY]);
        for (name, points) in groups
            .flat_map(|group| group.published)
            .chain(&FANOUT_LATENCY)
        {
            assert!(points.windows(2).all(|two| two[0].0 < two[1].0), "{name}");
        }
    }
}
