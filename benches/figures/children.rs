//! Processes of their own: servers, and what has to start from nothing.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{ChildStdout, Command, Stdio};

use polarismesh::testing::Server;
use polarismesh_benches::data;
pub use polarismesh_benches::runtime::{on_this_thread, runtime};

use crate::{idle, memory, plain, start};

/// Marks the command line of a child.
pub const FLAG: &str = "--child";

/// A child that ends with its handle, or with this process: its standard input closes then.
pub struct Child {
    process: std::process::Child,
    out: BufReader<ChildStdout>,
}

impl Child {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut process = Command::new(program)
            .args([FLAG, name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child of this program");
        let out = BufReader::new(process.stdout.take().expect("its output is piped"));
        Self { process, out }
    }

    /// The next line that it prints: of a server, its address.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line of the child");
        assert!(!line.is_empty(), "the child ended without a word");
        line.trim().to_owned()
    }

    /// The numbers of the next line.
    pub fn numbers(&mut self) -> Vec<f64> {
        self.line().split(' ').map(|number| number.parse().expect("a number")).collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An embedded control plane with so many services of so many instances each, in a process of its own.
pub fn control_plane(services: usize, instances: usize) -> (Child, String) {
    let mut child = Child::start("control-plane", &[&services.to_string(), &instances.to_string()]);
    let address = child.line();
    (child, address)
}

/// What the child `name` does.
pub fn run(name: &str, arguments: &[String]) {
    let argument = |index: usize| arguments[index].as_str();
    let number = |index: usize| argument(index).parse::<usize>().expect("a number");
    let seconds = |index: usize| std::time::Duration::from_secs(argument(index).parse().expect("seconds"));
    match name {
        "control-plane" => serve_control_plane(number(0), number(1)),
        "plain" => plain::serve(),
        "start" => start::child(argument(0)),
        "memory" => memory::child(argument(0), argument(1)),
        "idle" => idle::child(argument(0), argument(1), seconds(2), seconds(3)),
        _ => unreachable!("no child is called {name}"),
    }
}

/// Waits until the parent closes this process's standard input.
pub fn until_told() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve_control_plane(services: usize, instances: usize) {
    let runtime = runtime();
    runtime.block_on(async {
        let server = Server::listen("127.0.0.1:0").await.expect("a free port");
        server.keep_calls(0);
        if services == 1 {
            server.service(data::key()).instances(data::instances(instances));
        } else {
            for n in 0..services {
                server.service(("default", idle::name(n).as_str())).instances(data::instances(instances));
            }
        }
        println!("{}", server.address());
        tokio::task::spawn_blocking(until_told).await.expect("the parent says when");
        server.shutdown().await;
    });
}
