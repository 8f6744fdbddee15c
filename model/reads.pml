/* Strict reads: nobody reads from a deposed primary after a newer one acknowledged (L3).
 *
 * Discrete time, one unit is 0.8 s: T_fence 2, L 3 (2.4 s for the code's 2.0), and the kill (0.2 s) is
 * rounded up to one. Instants are kept as ages,
 * so time has no end. The holder A of epoch 1, its voters B and C (k = 1); one election, of B. Messages take up
 * to T_fence (later ones support nothing) or get lost; a renewal's request ends within 1 s. Once A ended there is nothing
 * left to see, so nothing goes on. Rates of clocks are not modelled: what L is above T_fence + kill is the reserve for them.
 */
#ifndef T_FENCE
#define T_FENCE 2	/* decide/election.py: 1.6 s */
#endif
#ifndef KILL
#define KILL 1
#endif
#ifndef LEASE
#define LEASE 3
#endif
#define SUSPECT 1	/* earlier than the code's 1.0 s */
#define CAP (T_FENCE + KILL)	/* older than this is all the same */

bit alive = 1;		/* A's PostgreSQL runs, and serves who is connected */
byte renewed = 0;	/* age of A's last successful renewal, from when it was sent */
byte ackd[2];		/* age of the newest beat that this voter granted, from when it was sent */
byte what[2];		/* on its way: 1 a beat, 2 its answer */
byte sent[2];		/* its age */
byte given[2];		/* age of the voter's newest grant */
bit promised[2];
byte seen = 0;		/* since B saw the renew time move */
bit put = 0;		/* a renewal is on its way */
byte putage = 0;
bit fresh = 0;		/* the Lease was renewed, and B has not seen it yet */
bit swapped = 0;
byte wait = 0;		/* until the door may open */
bit acks = 0;		/* B acknowledged a commit */

#define MIN2(a, b) ((a) < (b) -> (a) : (b))
#define SUPPORT MIN2(renewed, MIN2(ackd[0], ackd[1]))
#define REST(a) ((a) < LEASE -> LEASE - (a) : 0)
#define OLDER(a) a = ((a) < CAP -> (a) + 1 : CAP)

inline beat(i) { d_step { alive && what[i] == 0 && !promised[i] -> what[i] = 1; sent[i] = 0 } }
inline lose(i) { d_step { alive && what[i] -> what[i] = 0; sent[i] = 0 } }
inline answer(i) {	/* a voter that promised nothing above grants T_fence from now on */
	d_step { alive && what[i] == 1 && !promised[i] -> what[i] = 2; given[i] = 0 }
}
inline answered(i) {
#ifdef M_DEADLINE_FROM_ANSWER
	d_step { alive && what[i] == 2 -> ackd[i] = 0; what[i] = 0; sent[i] = 0 }
#else
	d_step { alive && what[i] == 2 -> ackd[i] = MIN2(sent[i], ackd[i]); what[i] = 0; sent[i] = 0 }
#endif
}
inline promise(i) {
	d_step { alive && !promised[i] && !swapped &&
#ifndef M_PROMISE_WHILE_FRESH
			given[i] >= T_FENCE &&
#endif
			given[i] >= SUSPECT ->
		promised[i] = 1; printf("%c: promises, its last grant %d units ago\n", 66 + i, given[i]) }
}

active proctype Holder() {
	do
	:: beat(0) :: beat(1) :: answered(0) :: answered(1)
	:: d_step { alive && !put -> put = 1; putage = 0 }
	:: d_step { alive && put && !swapped -> renewed = MIN2(putage, renewed); put = 0; putage = 0; fresh = 1; printf("A: renewed\n") }
	:: d_step { alive && put && !swapped -> put = 0; putage = 0; fresh = 1 }		/* it landed, the answer is lost */
	:: d_step { alive && put -> put = 0; putage = 0 }				/* it did not land */
	od
}
active proctype Voters() {
	do
	:: lose(0) :: lose(1) :: answer(0) :: answer(1)
	:: promise(0) :: promise(1)
	:: d_step { alive && fresh -> seen = 0; fresh = 0 }				/* the watch */
	:: d_step { alive && promised[0] && promised[1] && !swapped ->			/* its base was read after every renewal */
		if :: fresh -> seen = 0; fresh = 0 :: else fi;
		swapped = 1;
#ifdef M_DOOR_AT_ONCE
		wait = 0;
#elif defined(M_DOOR_WITHOUT_GRANTS)
		wait = REST(seen);
#elif defined(M_DOOR_WITHOUT_RENEWAL)
		wait = REST(MIN2(given[0], given[1]));
#else
		wait = REST(MIN2(seen, MIN2(given[0], given[1])));
#endif
		printf("B: swaps, the door waits %d units\n", wait) }
	:: d_step { alive && swapped && wait == 0 && !acks -> acks = 1; printf("B: opens its door and acknowledges\n") }
	od
}
active proctype Clock() {	/* the supervisor's kill is not late: KILL is what it may take */
	do
	:: d_step { alive && SUPPORT + 1 < T_FENCE + KILL && (!put || putage == 0) && sent[0] < T_FENCE && sent[1] < T_FENCE ->
		OLDER(renewed); OLDER(ackd[0]); OLDER(ackd[1]); OLDER(given[0]); OLDER(given[1]); OLDER(seen);
		if :: what[0] -> OLDER(sent[0]) :: else fi;
		if :: what[1] -> OLDER(sent[1]) :: else fi;
		if :: put -> OLDER(putage) :: else fi;
		if :: wait > 0 -> wait-- :: else fi;
		printf("-- tick\n") }
	:: d_step { alive && SUPPORT >= T_FENCE -> alive = 0; printf("A: ended at its deadline\n") }
	:: d_step { alive && acks -> printf("a client of A reads what B's commit has replaced\n"); assert(false) }
	od
}
