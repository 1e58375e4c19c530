package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// peers returns the other programs to measure.
func peers() []Stage {
	all := []Stage{
		{Name: "sha256sum", What: "one digest of the whole file", Peer: func(j Job) []string {
			return []string{"sha256sum", j.Path}
		}},
		{Name: "ipfs-only-hash", What: "Kubo, root CID only, the same profile", Agrees: "v1", Peer: func(j Job) []string {
			return []string{"ipfs", "add", "-Q", "--only-hash", "--cid-version=1", "--raw-leaves", "--chunker=size-1048576", "--max-file-links=1024", j.Path}
		}},
		{Name: "car-create", What: "go-car's command, one archive", Peer: func(j Job) []string {
			return []string{"car", "create", "--version", "1", "--no-wrap", "-f", filepath.Join(j.Dir, "peer.car"), j.Path}
		}},
		{Name: "ipfs-car", What: "ipfs-car pack, one archive", Agrees: "v1", Peer: func(j Job) []string {
			return []string{"ipfs-car", "pack", "--no-wrap", "--output", filepath.Join(j.Dir, "peer.car"), j.Path}
		}},
	}
	var here []Stage
	for _, s := range all {
		if _, err := exec.LookPath(s.Peer(Job{})[0]); err == nil {
			here = append(here, s)
		}
	}
	return here
}

// runPeer times another program. If the program computes a root, that is the
// last thing it prints.
func runPeer(ctx context.Context, s Stage, j Job) (Outcome, usage, error) {
	info, err := os.Stat(j.Path)
	if err != nil {
		return Outcome{}, usage{}, err
	}
	args := s.Peer(j)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	start := time.Now()
	p, err := cmd.CombinedOutput()
	out := Outcome{Bytes: info.Size(), Seconds: time.Since(start).Seconds()}
	if err != nil {
		return out, usage{}, fmt.Errorf("%s: %w", args[0], err)
	}
	if s.Agrees != "" {
		words := strings.Fields(string(p))
		if len(words) == 0 {
			return out, usage{}, fmt.Errorf("%s printed no root", args[0])
		}
		out.Root = words[len(words)-1]
	}
	return out, usageOf(cmd.ProcessState), nil
}
