package links

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/ipfs/go-cid"
)

// jsonOpen is an array or object that the walk is inside of.
type jsonOpen struct {
	object bool
	keys   int
	key    string // the key whose value comes next, if inKey
	inKey  bool
	link   string // the value of "/", if it is a string
	isLink bool
}

// eachJSON finds the links of a DAG-JSON block: objects with "/" as their only
// key and a string as its value.
func eachJSON(block []byte, f func(cid.Cid) error) error {
	dec := json.NewDecoder(bytes.NewReader(block))
	dec.UseNumber()
	var stack []jsonOpen
	for first := true; ; first = false {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) && !first && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return invalid("DAG-JSON: %v", err)
		}
		if len(stack) == 0 && !first {
			return invalid("DAG-JSON has data after its end")
		}
		if len(stack) > maxNesting {
			return invalid("DAG-JSON is nested too deep")
		}
		delim, isDelim := t.(json.Delim)
		if isDelim && (delim == '}' || delim == ']') {
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if !top.isLink || top.keys != 1 {
				continue
			}
			c, err := cid.Decode(top.link)
			if err != nil {
				return invalid("CID of a DAG-JSON link: %v", err)
			}
			if err := f(c); err != nil {
				return err
			}
			continue
		}
		if len(stack) > 0 {
			top := &stack[len(stack)-1]
			text, isText := t.(string)
			switch {
			case top.object && !top.inKey: // the decoder makes sure that a key is a string
				top.key, top.inKey = text, true
				top.keys++
				continue
			case top.object:
				top.inKey = false
				if top.key == "/" && isText {
					top.link, top.isLink = text, true
				}
			}
		}
		if isDelim {
			stack = append(stack, jsonOpen{object: delim == '{'})
		}
	}
}
