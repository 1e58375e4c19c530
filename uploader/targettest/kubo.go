package targettest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Kubo is a real node with a repository of its own and without peers.
type Kubo struct {
	URL  string // of the RPC
	Repo string // its IPFS_PATH

	program string
	cmd     *exec.Cmd
	gone    chan struct{} // closed when the process has been reaped
}

// kuboProgram is the environment variable with the path of Kubo.
const kuboProgram = "CARLOAD_KUBO"

// StartKubo starts a node, or skips the test if the environment variable
// CARLOAD_KUBO is not set. The node ends with the test. Each pair of arguments
// is a setting and its JSON value.
func StartKubo(tb testing.TB, config ...string) *Kubo {
	tb.Helper()
	k := &Kubo{program: program(tb, kuboProgram), Repo: filepath.Join(tb.TempDir(), "ipfs")}
	k.Run(tb, nil, "init", "--profile=test")
	host, port, err := net.SplitHostPort(freeAddress(tb))
	if err != nil {
		tb.Fatal(err)
	}
	k.URL = "http://" + net.JoinHostPort(host, port)
	config = append([]string{"Addresses.API", `"/ip4/` + host + "/tcp/" + port + `"`, "Addresses.Swarm", "[]", "Routing.Type", `"none"`, "Discovery.MDNS.Enabled", "false", "AutoTLS.Enabled", "false"}, config...)
	for i := 0; i+1 < len(config); i += 2 {
		k.Run(tb, nil, "config", "--json", config[i], config[i+1])
	}
	k.Start(tb)
	tb.Cleanup(func() { k.Kill(tb) })
	return k
}

// program returns the value of a variable, or skips the test if it is not set.
func program(tb testing.TB, variable string) string {
	tb.Helper()
	path := os.Getenv(variable)
	if path == "" {
		tb.Skipf("the variable %s does not name the program; .ci/run does", variable)
	}
	return path
}

func (k *Kubo) command(tb testing.TB, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(tb.Context(), k.program, args...)
	cmd.Env = append(os.Environ(), "IPFS_PATH="+k.Repo, "IPFS_TELEMETRY=off")
	return cmd
}

// Run runs a command of the node and returns its output.
func (k *Kubo) Run(tb testing.TB, stdin io.Reader, args ...string) []byte {
	tb.Helper()
	cmd := k.command(tb, args...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("ipfs %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// Start starts the node, possibly after Kill, and waits until it is ready.
func (k *Kubo) Start(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(k.program, "daemon") //nolint:noctx // it outlives the test's context, and is killed in the cleanup
	cmd.Env = append(os.Environ(), "IPFS_PATH="+k.Repo, "IPFS_TELEMETRY=off")
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ready := make(chan bool, 1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Daemon is ready") {
				ready <- true
			}
		}
		_ = cmd.Wait() // it is killed
		close(ready)
	}()
	k.cmd, k.gone = cmd, gone
	if !<-ready {
		tb.Fatalf("ipfs daemon: %s", stderr.Bytes())
	}
}

// Kill ends the node without warning, as a power loss would.
func (k *Kubo) Kill(tb testing.TB) {
	tb.Helper()
	if k.cmd == nil {
		return
	}
	if err := k.cmd.Process.Kill(); err != nil {
		tb.Log(err)
	}
	<-k.gone
	k.cmd = nil
}
