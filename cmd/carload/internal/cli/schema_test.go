package cli

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var updateSchemas = flag.Bool("update-schemas", false, "write docs/schema")

// schemaDir has a file for each type of line. If a field is removed or changes
// its meaning, that needs a new version: another directory beside this one.
const schemaDir = "../../../../docs/schema/v1"

// lines maps each type of JSON line to its struct; "report" and "outcome" are
// the rows of --report and of "ledger report", which have no type.
func lines() map[string]any {
	return map[string]any{
		"archive": archiveEvent{}, "batch": batchEvent{}, "bench": benchEvent{}, "check": checkEvent{}, "console": consoleEvent{},
		"deleted": goneEvent{}, "entry": entryEvent{}, "error": errorEvent{}, "explained": explainedEvent{}, "fault": faultEvent{}, "file": fileEvent{}, "forgotten": goneEvent{},
		"fsck": fsckEvent{}, "gc": gcEvent{}, "got": gotEvent{}, "gotArchive": gotArchiveEvent{}, "imported": importedEvent{}, "key": keyEvent{},
		"ledger": ledgerEvent{}, "login": loginEvent{}, "mending": mendingEvent{}, "piece": pieceEvent{}, "pin": pinEvent{}, "plan": planEvent{},
		"profile": profileEvent{}, "progress": progressEvent{}, "receipt": receiptEvent{}, "refused": refusedEvent{}, "removed": goneEvent{},
		"repaired": repairEvent{}, "retry": retryEvent{}, "revoked": goneEvent{}, "root": rootEvent{}, "serving": servingEvent{},
		"setting": settingEvent{}, "shard": shardEvent{}, "skipped": skippedEvent{}, "status": statusEvent{}, "store": storeEvent{},
		"summary": summaryEvent{}, "target": targetEvent{}, "unpacked": unpackedEvent{}, "upload": uploadEvent{}, "verified": verifiedEvent{},
		"version": versionEvent{}, "waiting": waitingEvent{}, "withdrawn": goneEvent{},
		"report": reportRow{}, "outcome": outcomeRow{},
	}
}

// Every type of line has a schema in docs, which describes its fields. The
// scripts of this package check that the output conforms.
func TestSchemas(t *testing.T) {
	t.Parallel()
	all := lines()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`header\("(\w+)"\)`).FindAllStringSubmatch(string(text), -1) {
			if all[m[1]] == nil && !strings.HasSuffix(name, "_test.go") {
				t.Errorf("%s makes lines of type %s, which has no schema", name, m[1])
			}
		}
	}
	what := descriptions(t)
	for kind, v := range all {
		var got bytes.Buffer
		enc := json.NewEncoder(&got)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(schemaOf(kind, what[kind], reflect.TypeOf(v))); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(schemaDir, kind+".json")
		if *updateSchemas {
			if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not what the code prints (%v); fields are only ever added: go test ./cmd/carload/internal/cli -run TestSchemas -update-schemas", path, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(schemaDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if kind := strings.TrimSuffix(filepath.Base(f), ".json"); all[kind] == nil {
			t.Errorf("%s is of no line", f)
		}
	}
}

// descriptions returns the rows of docs/json.md, by type.
func descriptions(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"report":  "a row of the file that --report writes",
		"outcome": "a row of what carload ledger report writes",
	}
	for row := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		if len(cells) != 3 {
			continue
		}
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[0], -1) {
			all[m[1]] = strings.ReplaceAll(strings.TrimSuffix(cells[2], " |"), "`", "")
		}
	}
	return all
}

// schema is a part of a JSON Schema, draft 2020-12.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"` // a string or several
	Format      string             `json:"format,omitempty"`
	Const       any                `json:"const,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Values      *schema            `json:"additionalProperties,omitempty"`
}

func schemaOf(kind, what string, typ reflect.Type) *schema {
	s := valueSchema(typ)
	s.Schema, s.Title, s.Description = "https://json-schema.org/draft/2020-12/schema", kind, what
	if s.Properties["v"] != nil {
		s.Properties["v"] = &schema{Const: 1}
		s.Properties["type"] = &schema{Const: kind}
	}
	return s
}

// valueSchema describes what encoding/json makes of a type.
func valueSchema(typ reflect.Type) *schema {
	switch {
	case typ == reflect.TypeFor[time.Time]():
		return &schema{Type: "string", Format: "date-time"}
	case typ.Implements(reflect.TypeFor[json.Marshaler]()):
		panic("what does " + typ.String() + " look like?")
	case typ.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return &schema{Type: "string"}
	}
	switch typ.Kind() {
	case reflect.Interface:
		return &schema{} // anything
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &schema{Type: "integer"}
	case reflect.Float32, reflect.Float64:
		return &schema{Type: "number"}
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Slice, reflect.Array:
		if typ.Elem().Kind() == reflect.Uint8 {
			return &schema{Type: []string{"string", "null"}} // base64
		}
		return &schema{Type: []string{"array", "null"}, Items: valueSchema(typ.Elem())}
	case reflect.Map:
		return &schema{Type: []string{"object", "null"}, Values: valueSchema(typ.Elem())}
	case reflect.Pointer:
		s := valueSchema(typ.Elem())
		if one, ok := s.Type.(string); ok {
			s.Type = []string{one, "null"}
		}
		return s
	case reflect.Struct:
		s := &schema{Type: "object", Properties: map[string]*schema{}}
		s.addFields(typ, true)
		slices.Sort(s.Required)
		return s
	default:
		panic("JSON has no " + typ.String())
	}
}

// addFields adds the fields of a struct. Those of an embedded pointer are
// optional.
func (s *schema) addFields(typ reflect.Type, required bool) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			s.addFields(f.Type, required)
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Pointer:
			s.addFields(f.Type.Elem(), false)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		v := valueSchema(f.Type)
		omitted := strings.Contains(opts, "omit")
		if types, ok := v.Type.([]string); ok && omitted {
			v.Type = types[0] // omitted rather than null
		}
		s.Properties[name] = v
		if required && !omitted {
			s.Required = append(s.Required, name)
		}
	}
}
