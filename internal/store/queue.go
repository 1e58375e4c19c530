package store

// queue holds the nodes that an indexer still has to process. When it is full,
// it drops nodes. None is lost, since the index marks them too, and take gets
// them from there.
type queue struct {
	keys    []nodeKey
	spilled bool
}

// queueKeys limits what a queue holds.
const queueKeys = 16 << 10

func (q *queue) push(k nodeKey) {
	if len(q.keys) < queueKeys {
		q.keys = append(q.keys, k)
	} else {
		q.spilled = true
	}
}

// scan pushes a row of mh and codec.
func (q *queue) scan(row scanRow) error {
	k, err := scanKey(row)
	q.push(k)
	return err
}

// take returns up to n keys. More returns keys that did not fit into the queue.
func (q *queue) take(n int, more func(limit int) ([]nodeKey, error)) ([]nodeKey, error) {
	if len(q.keys) == 0 && q.spilled {
		keys, err := more(queueKeys)
		if err != nil {
			return nil, err
		}
		q.keys, q.spilled = keys, len(keys) == queueKeys
	}
	at := max(len(q.keys)-n, 0)
	out := q.keys[at:]
	q.keys = q.keys[:at:at]
	return out, nil
}
