package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/pelletier/go-toml/v2"

	"github.com/carload/carload/uploader/bucket"
	"github.com/carload/carload/uploader/cluster"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/kubo"
	"github.com/carload/carload/uploader/nftstorage"
)

// The kinds of targets, as named in the configuration.
const (
	kindService = "service" // speaks the NFT.Storage API
	kindStore   = "store"   // the built-in service over a directory
	kindKubo    = "kubo"
	kindBucket  = "s3"
	kindCluster = "cluster"
	kindDir     = "dir"
)

// targetConfig is a target in the configuration: the table [targets.NAME].
type targetConfig struct {
	Type         string `toml:"type"`
	URL          string `toml:"url,omitempty"`
	Path         string `toml:"path,omitempty"` // of a directory or store
	Gateway      string `toml:"gateway,omitempty"`
	Files        string `toml:"files,omitempty"` // in the files of a Kubo node
	TokenFile    string `toml:"token-file,omitempty"`
	TokenCommand string `toml:"token-command,omitempty"`
	Secret       string `toml:"secret,omitempty"` // where the secret is stored: keyring or file
	InsecureHTTP bool   `toml:"insecure-http,omitempty"`
	CACert       string `toml:"ca-cert,omitempty"`
	TPSLimit     string `toml:"tpslimit,omitempty"`
	Allocations  string `toml:"allocations,omitempty"` // peers of a cluster, separated by commas
	Endpoint     string `toml:"endpoint,omitempty"`    // of storage other than AWS; this and the next three are for buckets
	Region       string `toml:"region,omitempty"`
	Profile      string `toml:"profile,omitempty"` // of the AWS configuration
	Import       bool   `toml:"import,omitempty"`
}

// targetsKey is the table of the configuration that contains targets.
const targetsKey = "targets"

// targetName matches the names that a target may have: nothing that could be a
// URL.
var targetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// decodeTargets reads the table of targets from a configuration.
func decodeTargets(table any) (map[string]targetConfig, error) {
	if err := flatTargets(table); err != nil {
		return nil, err
	}
	text, err := toml.Marshal(table)
	if err != nil {
		return nil, err
	}
	targets := map[string]targetConfig{}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(&targets); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
			key := unknown.Errors[0].Key()
			return nil, fmt.Errorf("unknown setting %q of target %q%s", key[len(key)-1], key[0], suggestion(key[len(key)-1], targetSettings()))
		}
		return nil, fmt.Errorf("[%s]: %w", targetsKey, err)
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if err := targets[name].validate(name); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// flatTargets returns an error unless the table has only tables of single
// values. Writing deeper ones again would take the square of their size.
func flatTargets(table any) error {
	targets, ok := table.(map[string]any)
	if !ok {
		return fmt.Errorf("%s must be a table", targetsKey)
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		values, ok := targets[name].(map[string]any)
		if !ok {
			return fmt.Errorf("target %q must be a table: [%s.NAME]", name, targetsKey)
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			switch values[key].(type) {
			case map[string]any, []any:
				return fmt.Errorf("target %q: %q must be a single value", name, key)
			}
		}
	}
	return nil
}

// targetSettings returns the names of a target's settings.
func targetSettings() []string {
	return []string{"type", "url", "path", "gateway", "files", "token-file", "token-command", "secret", "insecure-http", "ca-cert", "tpslimit", "allocations", "endpoint", "region", "profile", "import"}
}

// kinds lists the settings of each kind of target, besides its type.
var kinds = map[string][]string{
	kindService: {"url", "gateway", "token-file", "token-command", "secret", "insecure-http", "ca-cert", "tpslimit"},
	kindStore:   {"path"},
	kindKubo:    {"url", "files", "token-file", "token-command", "secret", "insecure-http", "ca-cert"},
	kindCluster: {"url", "allocations", "token-file", "token-command", "secret", "insecure-http", "ca-cert"},
	kindBucket:  {"url", "endpoint", "region", "profile", "import", "ca-cert"},
	kindDir:     {"path"},
}

// validate checks a target with this name.
func (t targetConfig) validate(name string) error {
	if !targetName.MatchString(name) {
		return fmt.Errorf("%q can't be the name of a target: use letters and digits, and after the first also ._-", name)
	}
	known, ok := kinds[t.Type]
	if !ok {
		return fmt.Errorf("target %q: %q is not a type; use one of %s", name, t.Type, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	text, err := toml.Marshal(t)
	if err != nil {
		return err
	}
	set := map[string]any{}
	if err := toml.Unmarshal(text, &set); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if key != "type" && !slices.Contains(known, key) {
			return fmt.Errorf("target %q: a target of type %s has no setting %q", name, t.Type, key)
		}
	}
	switch {
	case slices.Contains(known, "url") && t.URL == "":
		return fmt.Errorf("target %q: it has no url", name)
	case t.Type == kindDir && t.Path == "":
		return fmt.Errorf("target %q: it has no path", name)
	case t.Secret != "" && t.Secret != secretInKeyring && t.Secret != secretInFile:
		return fmt.Errorf("target %q: the secret can be in the %s or in a %s, but not in %q", name, secretInKeyring, secretInFile, t.Secret)
	}
	if u, err := url.Parse(t.URL); err != nil || u.User != nil {
		return fmt.Errorf("target %q: the url must not contain a user name and password", name)
	}
	return nil
}

// where returns the target in the form that --to accepts.
func (t targetConfig) where() string {
	switch t.Type {
	case kindKubo, kindCluster:
		return t.Type + ":" + t.URL
	case kindDir, kindStore:
		return t.Type + ":" + t.Path
	}
	return t.URL
}

// parseTarget parses a --to that is not a name.
func (a *app) parseTarget(s string) (targetConfig, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return targetConfig{}, withHint(usagef("there is no target called %q%s", s, suggestion(s, slices.Collect(maps.Keys(a.settings.targets)))),
			`"carload target add" adds one; --to also accepts https://…, kubo://…, s3://BUCKET/PREFIX, cluster://…, dir:PATH and store:`)
	}
	switch scheme {
	case "http", "https":
		return targetConfig{Type: kindService, URL: s}, nil
	case "kubo", "kubo+http", "kubo+https", "kubo+unix":
		at, err := a.kuboAddress(scheme, rest)
		return targetConfig{Type: kindKubo, URL: at}, err
	case kindBucket:
		return targetConfig{Type: kindBucket, URL: s}, nil
	case kindCluster, "cluster+https":
		over := "http:"
		if scheme != kindCluster {
			over = "https:"
		}
		if strings.HasPrefix(rest, "http://") || strings.HasPrefix(rest, "https://") {
			over = ""
		}
		return targetConfig{Type: kindCluster, URL: over + rest}, nil
	case kindDir:
		if rest == "" {
			return targetConfig{}, usagef("--to dir: needs the path of a directory, as in dir:/srv/shards")
		}
		path, err := filepath.Abs(strings.TrimPrefix(rest, "//"))
		return targetConfig{Type: kindDir, Path: path}, err
	case kindStore:
		path, err := a.storeDir(rest)
		return targetConfig{Type: kindStore, Path: path}, err
	}
	return targetConfig{}, usagef("target %q: use https://…, kubo://…, s3://BUCKET/PREFIX, cluster://…, dir:PATH, store: or the name of a target", s)
}

// kuboAddress returns the address after "kubo:" in the form that the target
// takes. An empty address means this user's node on this machine.
func (a *app) kuboAddress(scheme, rest string) (string, error) {
	if over, ok := strings.CutPrefix(scheme, "kubo+"); ok {
		return over + ":" + rest, nil
	}
	switch host, isHost := strings.CutPrefix(rest, "//"); {
	case isHost && host != "":
		return "http://" + host, nil
	case rest != "" && !isHost: // a URL or a multiaddr
		return rest, nil
	}
	repo := a.env["IPFS_PATH"]
	if repo == "" {
		repo = filepath.Join(a.env["HOME"], ".ipfs")
	}
	p, err := readLocal(repo, "api")
	if err != nil {
		return "", withHint(usagef("no Kubo node is running for this user: %w", err), "start it with ipfs daemon, or name another one, such as kubo://127.0.0.1:5001")
	}
	return strings.TrimSpace(string(p)), nil
}

// open opens a target from the configuration, with the flags of the command.
func (a *app) open(ctx context.Context, f endpointFlags, name string, c targetConfig) (*target, error) {
	switch c.Type {
	case kindStore:
		path, err := a.storeDir(c.Path)
		if err != nil {
			return nil, err
		}
		return a.openStoreTarget(ctx, f, path)
	case kindDir:
		d, err := dirtarget.New(c.Path, dirtarget.Options{})
		if err != nil {
			return nil, err
		}
		return &target{Target: d}, nil
	case kindBucket:
		f, err := f.with(c)
		if err != nil {
			return nil, err
		}
		return a.openBucket(ctx, f, c)
	}
	secret, err := a.secretOf(ctx, f, name, c)
	if err != nil {
		return nil, err
	}
	return a.openWith(f, c, secret)
}

// openWith opens a target from the configuration with its secret.
func (a *app) openWith(f endpointFlags, c targetConfig, secret string) (*target, error) {
	f, err := f.with(c)
	if err != nil {
		return nil, err
	}
	switch c.Type {
	case kindKubo:
		return a.openKubo(f, c, secret)
	case kindCluster:
		return a.openCluster(f, c, secret)
	}
	token, err := nftstorage.NewToken(secret)
	if err != nil {
		return nil, usageError{error: err}
	}
	if secret == "" {
		return nil, noToken(c.URL)
	}
	return a.openService(f, c.URL, token)
}

func or(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

func (a *app) openKubo(f endpointFlags, c targetConfig, secret string) (*target, error) {
	trust, err := f.tls()
	if err != nil {
		return nil, err
	}
	k, err := kubo.New(kubo.Options{
		Address: c.URL, Auth: secret, AllowHTTP: f.insecureHTTP, TLS: trust, Files: or(f.files, c.Files), Stall: f.stall, UserAgent: "carload/" + version(),
	})
	if err != nil {
		return nil, usageError{error: err}
	}
	return &target{Target: k, closers: []func() error{k.Close}}, nil
}

func (a *app) openCluster(f endpointFlags, c targetConfig, secret string) (*target, error) {
	trust, err := f.tls()
	if err != nil {
		return nil, err
	}
	var peers []string
	if c.Allocations != "" {
		peers = strings.Split(c.Allocations, ",")
	}
	t, err := cluster.New(cluster.Options{Endpoint: c.URL, Auth: secret, AllowHTTP: f.insecureHTTP, Allocations: peers, TLS: trust, Stall: f.stall, UserAgent: "carload/" + version()})
	if err != nil {
		return nil, usageError{error: err}
	}
	return &target{Target: t, closers: []func() error{t.Close}}, nil
}

// openBucket opens a bucket as a target. It finds credentials where the AWS
// tools do: in the environment, in ~/.aws, and in the role of the machine.
func (a *app) openBucket(ctx context.Context, f endpointFlags, c targetConfig) (*target, error) {
	return a.openBucketAs(ctx, f, c, nil)
}

// openBucketAs is openBucket with changed credentials; as is nil to leave them
// as they are.
func (a *app) openBucketAs(ctx context.Context, f endpointFlags, c targetConfig, as func(aws.Credentials) aws.Credentials) (*target, error) {
	trust, err := f.tls()
	if err != nil {
		return nil, err
	}
	name, prefix, _ := strings.Cut(strings.TrimPrefix(c.URL, "s3://"), "/")
	options := []func(*config.LoadOptions) error{config.WithSharedConfigProfile(c.Profile), config.WithRegion(c.Region)}
	conf, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, usageError{error: err}
	}
	if c.Endpoint != "" {
		conf.BaseEndpoint = &c.Endpoint
	}
	if found := conf.Credentials; as != nil && found != nil {
		conf.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			known, err := found.Retrieve(ctx)
			return as(known), err
		})
	}
	b, err := bucket.New(bucket.Options{Config: conf, Bucket: name, Prefix: prefix, Import: c.Import, TLS: trust, Stall: f.stall, UserAgent: "carload/" + version()})
	if err != nil {
		return nil, usageError{error: err}
	}
	return &target{Target: b, closers: []func() error{b.Close}}, nil
}

// kuboVariable contains the secret of a Kubo node that is not a named target.
const kuboVariable = "CARLOAD_KUBO_AUTH"

// secretOf finds the secret of a target. For a named target it looks only where
// the configuration says: the key in the environment is for another one.
func (a *app) secretOf(ctx context.Context, f endpointFlags, name string, c targetConfig) (string, error) {
	switch {
	case c.TokenFile != "" || c.TokenCommand != "":
		return a.secret(ctx, tokenFlags{c.TokenFile, c.TokenCommand}, false)
	case c.Secret != "":
		return a.readSecret(name, c.Secret)
	case name != "":
		return "", nil
	case c.Type == kindKubo:
		return a.env[kuboVariable], nil
	case c.Type == kindCluster:
		return "", nil
	}
	secret, err := a.secret(ctx, f.token, true)
	if secret != "" || err != nil {
		return secret, err
	}
	return a.loginSecret(c.URL)
}
