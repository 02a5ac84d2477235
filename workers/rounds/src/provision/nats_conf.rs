//! The hub's nats-server: one account for the streams, and one for each key of a member.
//!
//! An account is named for its key, not for its member: what a key was allowed ends with the key, also for a connection
//! that was open when it was replaced.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use pipeline::rights::{self, Right, Way};
use schemas::roster::Roster;

use super::Plan;

/// Bytes of the largest message, as the private server of `rounds up` takes them.
const MAX_PAYLOAD: usize = 8 << 20;
/// Connections of one member at a time.
const MAX_CONNECTIONS: usize = 256;

/// `nats.conf`. Paths in it start in the folder in which nats-server is started.
pub fn server(plan: &Plan) -> String {
    let Plan {
        name,
        listen,
        port,
        leaf_port,
        websocket_port,
        ingress,
        monitor,
        store,
        encrypted,
        ..
    } = plan;
    // Sites prove twice who they are: by a certificate of this federation, then by their key.
    let tls = |first: &str| {
        format!(
            "tls {{ cert_file: \"server.pem\", key_file: \"server.key\", ca_file: \"ca.pem\", verify: true, \
             timeout: 5{first} }}"
        )
    };
    let (first, plain) = (tls(", handshake_first: true"), tls(""));
    let mut text = format!(
        "# The hub of the federation {name}: start it in this folder, `nats-server -c nats.conf`.\n\
         # Written by `rounds provision hub`; members.conf beside it by every later `rounds provision`.\n\
         server_name: {name:?}\n\
         listen: \"{listen}:{port}\"\n\
         max_payload: {MAX_PAYLOAD}\n\
         {first}\n\
         # Sites' own nats-servers dial in here.\n\
         leafnodes {{\n  listen: \"{listen}:{leaf_port}\"\n  {first}\n}}\n"
    );
    if let Some(port) = websocket_port {
        let (protected, how) = match ingress {
            Some(ingress) => (
                format!(" An ingress at {ingress} ends TLS, and\n# nobody else may reach this port"),
                "no_tls: true",
            ),
            None => (String::new(), &*plain),
        };
        text += &format!(
            "# The same for sites from which only HTTPS leads out.{protected}\n\
             websocket {{\n  listen: \"{listen}:{port}\"\n  {how}\n}}\n"
        );
    }
    if let Some(address) = monitor {
        text +=
            &format!("# Tells everything about everybody, to whoever asks: for KEDA.\nhttp: {address:?}\n");
    }
    text += &format!(
        "# What was acknowledged survives a power cut.\n\
         jetstream {{\n  store_dir: {store:?}\n  sync_interval: always\n"
    );
    if *encrypted {
        text += "  include \"storage-key.conf\"\n";
    }
    text + "}\ninclude \"members.conf\"\n"
}

/// `members.conf`: who may connect, and what each may do.
pub fn members(plan: &Plan, roster: &Roster) -> String {
    let mut exports: BTreeMap<Right, Vec<&str>> = BTreeMap::new();
    let mut accounts = String::new();
    let sites = roster
        .sites
        .iter()
        .map(|(name, keys)| ("site", name, keys, rights::of_site(name)));
    let submitters = roster
        .submitters
        .iter()
        .map(|(name, keys)| ("submitter", name, keys, rights::of_submitter()));
    for (kind, name, keys, rights) in sites.chain(submitters) {
        for key in &keys.current {
            let account = Account {
                kind,
                name,
                key,
                rights: &rights,
            };
            // A String takes all that is written.
            let _ = write!(accounts, "{account}");
            for right in &rights {
                exports.entry(right.clone()).or_default().push(key);
            }
        }
    }
    let mut text = String::from(
        "# Written by `rounds provision` from roster.json: a change here is lost.\n\
         accounts {\n  HUB {\n    jetstream: enabled\n",
    );
    let orchestrators = users(&roster.orchestrators.current);
    let _ = writeln!(text, "    users: [ {orchestrators} ]\n    exports: [");
    for (Right { subject, way }, keys) in &exports {
        let kind = match way {
            Way::Say => "service",
            Way::AskMany => "response_type: stream, service",
            Way::Hear => "stream",
        };
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        let _ = writeln!(
            text,
            "      {{ {kind}: {subject:?}, accounts: [{}] }}",
            keys.join(", ")
        );
    }
    let admin = users(std::slice::from_ref(&plan.admin));
    let _ = write!(
        text,
        "    ]\n  }}\n{accounts}  SYS {{ users: [ {admin} ] }}\n}}\nsystem_account: SYS\n"
    );
    text
}

fn users(keys: &[String]) -> String {
    let users: Vec<String> = keys.iter().map(|key| format!("{{ nkey: {key:?} }}")).collect();
    users.join(", ")
}

struct Account<'a> {
    kind: &'a str,
    name: &'a str,
    key: &'a str,
    rights: &'a [Right],
}

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account {
            kind,
            name,
            key,
            rights,
        } = self;
        writeln!(f, "  # {kind} {name}\n  {key:?} {{")?;
        writeln!(f, "    users: [ {{ nkey: {key:?} }} ]")?;
        writeln!(f, "    limits {{ max_connections: {MAX_CONNECTIONS} }}")?;
        writeln!(f, "    imports: [")?;
        for right in *rights {
            let kind = match right.way {
                Way::Say | Way::AskMany => "service",
                Way::Hear => "stream",
            };
            let (there, here) = (&right.subject, right.here());
            write!(f, "      {{ {kind}: {{ account: HUB, subject: {there:?} }}")?;
            if *there != here {
                write!(f, ", to: {here:?}")?;
            }
            writeln!(f, " }}")?;
        }
        writeln!(f, "    ]\n  }}")
    }
}
