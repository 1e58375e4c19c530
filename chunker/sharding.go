package chunker

import (
	"fmt"
	"strconv"
	"strings"
)

// Sharding is the rule that decides when a directory becomes a HAMT. It applies
// to each directory by itself, with its final links. As text it is "never", or
// a measure, a comparison and a limit: "block-bytes>262144",
// "links-count>=1000". The zero value means never.
type Sharding struct {
	Rule    ShardingRule
	Limit   int
	AtLimit bool // also if the measure equals the limit
}

// ShardingRule is what a [Sharding] measures.
type ShardingRule uint8

const (
	Never      ShardingRule = iota // directories stay flat
	LinksBytes                     // total length of names and binary CIDs
	BlockBytes                     // size of the directory's block if it is flat
	LinksCount                     // number of entries
)

func (r ShardingRule) String() string {
	switch r {
	case LinksBytes:
		return "links-bytes"
	case BlockBytes:
		return "block-bytes"
	case LinksCount:
		return "links-count"
	default:
		return "never"
	}
}

func (s Sharding) String() string {
	if s.Rule == Never {
		return s.Rule.String()
	}
	op := ">"
	if s.AtLimit {
		op = ">="
	}
	return s.Rule.String() + op + strconv.Itoa(s.Limit)
}

// ParseSharding parses the result of [Sharding.String]. "RULE:N" means
// "RULE>N".
func ParseSharding(text string) (Sharding, error) {
	if text == Never.String() {
		return Sharding{}, nil
	}
	for _, rule := range []ShardingRule{LinksBytes, BlockBytes, LinksCount} {
		rest, ok := strings.CutPrefix(text, rule.String())
		if !ok {
			continue
		}
		s := Sharding{Rule: rule}
		for _, op := range []string{">=", ">", ":"} {
			if number, ok := strings.CutPrefix(rest, op); ok {
				n, err := strconv.Atoi(number)
				if err != nil {
					break
				}
				s.Limit, s.AtLimit = n, op == ">="
				return s, s.validate()
			}
		}
	}
	return Sharding{}, fmt.Errorf("HAMT rule %q: must be never, or links-bytes, block-bytes or links-count with a limit, as in links-count>=1000", text)
}

// MarshalText implements encoding.TextMarshaler.
func (s Sharding) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sharding) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSharding(string(text))
	return err
}

func (s Sharding) validate() error {
	if s.Rule > LinksCount {
		return fmt.Errorf("unknown HAMT rule %d", s.Rule)
	}
	if s.Rule != Never && s.Limit < 1 {
		return fmt.Errorf("HAMT rule %s: the limit must be at least 1", s)
	}
	return nil
}

// exceeded reports whether a directory with this measure becomes a HAMT.
func (s Sharding) exceeded(measure int) bool {
	return measure > s.Limit || s.AtLimit && measure == s.Limit
}
